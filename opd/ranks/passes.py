"""Passes through layers that are cut among processes: each is one of all processes, in step."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from opd.models.forward import causal, recomputing, route_of
from opd.ranks.layers import layers_of
from opd.ranks.processes import ProcessRanks

Computing = Callable[[], AbstractContextManager[Any]]
BACKWARD = "backward"
LEARN = "learn"  # a pass whose gradient is taken next


class Passes:
    """Those of one model, which computes inside `computing()`; each begins as a turn of all."""

    def __init__(self, ranks: ProcessRanks, model: Any, number: int, computing: Computing) -> None:
        self._ranks, self._model, self._computing = ranks, model, computing
        self._read = f"read {number}"
        self._follows = False  # the pass, or its gradient, has begun as a turn already
        self._learns = False
        self._states: Tensor | None = None  # of the pass whose gradient is taken next
        layers = layers_of(model, where="sharding")
        layers[0].register_forward_pre_hook(self._begin, prepend=True)
        layers[-1].register_forward_hook(self._end)
        ranks.offer(self._read, self._follow_reading)

    def learn(self) -> None:
        """From now on gradients are taken. To be called once all models' passes are offered: while
        one process reads in another state (its adapter switched off), none learns."""
        self._learns = True
        self._ranks.offer(BACKWARD, lambda: self._back(None))
        self._ranks.offer(LEARN, self._follow_learning)

    def backward(self, states: Tensor, gradient: Tensor | None) -> None:
        """Takes the gradient of the states of this process's last pass; zeros where it has none."""
        self._states = states
        with self._ranks.in_step(BACKWARD):
            self._back(gradient)

    def _begin(self, *_: Any) -> None:
        if not self._follows:
            self._ranks.begin(LEARN if self._learns and torch.is_grad_enabled() else self._read)

    def _end(self, *_: Any) -> None:
        if not self._follows:
            self._ranks.done()

    def _follow_reading(self) -> None:
        with torch.no_grad():
            self._pass()

    def _follow_learning(self) -> None:
        with torch.enable_grad(), recomputing(self._model):
            self._states = self._pass()

    def _pass(self) -> Tensor:
        """(1, 1, D) of a token: it meets all weights of the layers, with gradients of zero."""
        backbone, device = route_of(self._model).backbone, causal(self._model).device
        ids = torch.zeros((1, 1), dtype=torch.long, device=device)
        with self._following(), self._computing():
            states: Tensor = backbone(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def _back(self, gradient: Tensor | None) -> None:
        states, self._states = self._states, None
        assert states is not None
        zeros = torch.zeros_like(states) if gradient is None else gradient
        with self._following(), torch.enable_grad():
            torch.autograd.backward(states, zeros)

    @contextmanager
    def _following(self) -> Iterator[None]:
        self._follows = True
        try:
            yield
        finally:
            self._follows = False
