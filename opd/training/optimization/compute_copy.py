"""The bfloat16 copy that is sampled from, as what computes loss and gradient of float32 weights.

Autocast casts every matrix, and the input of every product, and keeps the stream between the layers
in float32: more bytes than the products themselves. The copy is in bfloat16 throughout; each of its
gradients is added to the float32 one of the weight it stands for, where sums of many are taken, and
let go. What is trained then has the log-probabilities that were sampled from, but for the order of
their sums.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from opd.models.forward import causal
from opd.models.load import Pair


class ComputeCopy:
    """Of a pair whose student is trained whole, in float32, and sampled from a copy."""

    def __init__(self, pair: Pair) -> None:
        assert pair.sampling_copy is not None
        self._pair, self._sampling_copy = pair, pair.sampling_copy
        self._model: Any = None

    def __call__(self) -> Pair:
        """The pair with the copy, brought up to date; the pair itself where memory allows none."""
        model = self._sampling_copy()
        if model is None:
            return self._pair
        if model is not self._model:
            self._take(model)
        return replace(self._pair, student=model, weights=self._pair.dtype)

    def _take(self, model: Any) -> None:
        """From now on the copy's gradients go to the weights."""
        copies = dict(model.named_parameters())
        for name, weight in causal(self._pair.student).named_parameters():
            if weight.requires_grad and copies[name] is not weight:
                copies[name].requires_grad_()
                copies[name].register_post_accumulate_grad_hook(_handing_to(weight))
        self._model = model


def _handing_to(weight: Tensor) -> Any:
    def hand(copy: Tensor) -> None:
        assert copy.grad is not None
        if weight.grad is None:
            weight.grad = copy.grad.to(weight.dtype)
        else:
            weight.grad.add_(copy.grad)
        copy.grad = None

    return hand
