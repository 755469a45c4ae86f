"""What a piece of code makes torch execute: operators, casts of weights, repeats of keys, waits.

Works on real tensors and on fake ones of a GPU. Fake CUDA tensors carry no gradient where torch is
built for the processor only, so a forward and backward pass is counted on the processor's own
tensors: which operators run, which weights are cast and what waits for a value is the same there.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

FAKE_CUDA = torch.device("cuda:0")
NEEDS_A_VALUE = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2"}
CASTS = {"_to_copy", "to"}
TO_HOST = {"cpu", "tolist"}


class OperatorCounts:
    """Counts what runs inside `with counts:`; `weights` are told apart in `casts`."""

    def __init__(self, weights: Iterable[Tensor] = (), *, key_heads: int = 0) -> None:
        self.operators: Counter[str] = Counter()
        self.casts: Counter[int] = Counter()  # number of a weight → how often it was cast
        self.waits: Counter[str] = Counter()  # what the host waits for: values, copies to it
        self.copies_to_device = 0
        self.attention = self.masked_attention = 0
        self.repeated_keys = 0
        self._key_heads = key_heads  # where it is known; queries may be packed on them
        self._numbers = {_identity(w): i for i, w in enumerate(weights)}
        self._modes: list[Any] = []

    def __enter__(self) -> "OperatorCounts":
        self._modes = [_Functions(self), _Operators(self)]
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)

    def saw_operator(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        self.operators[name] += 1
        if name in NEEDS_A_VALUE:
            self.waits[name] += 1
        if name not in CASTS or not isinstance(result, Tensor):
            return
        given = args[0]
        if given.dtype != result.dtype and _identity(given) in self._numbers:
            self.casts[self._numbers[_identity(given)]] += 1
        if given.device.type != "cpu" and result.device.type == "cpu":
            self.waits["copy to the host"] += 1
        if given.device.type == "cpu" and result.device.type != "cpu":
            self.copies_to_device += 1

    def saw_attention(self, query: Tensor, key: Tensor, mask: Any, grouped: bool) -> None:
        self.attention += 1
        self.masked_attention += mask is not None
        # A stride of 0 or a fresh copy: several heads of queries read the same keys.
        heads = self._key_heads or query.shape[1]
        repeated = key.shape[1] > heads if self._key_heads else key.shape[1] == heads
        self.repeated_keys += repeated and not grouped


class _Functions(TorchFunctionMode):
    def __init__(self, counts: OperatorCounts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is functional.scaled_dot_product_attention:
            mask, grouped = given.get("attn_mask"), given.get("enable_gqa", False)
            self._counts.saw_attention(args[0], args[1], mask, grouped)
            if args[0].device.type != "cpu":
                return _attention(args[0], args[2])
        if name in ASK_THE_DRIVER and args[0].device.type != "cpu":
            return ASK_THE_DRIVER[name](*args)
        if name in TO_HOST and isinstance(args[0], Tensor) and args[0].device.type == "cpu":
            self._counts.waits[name] += 1
        return func(*args, **given)


class _Operators(TorchDispatchMode):
    def __init__(self, counts: OperatorCounts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._counts.saw_operator(func.overloadpacket.__name__, args, result)
        return result


def _identity(tensor: Tensor) -> int:
    """The same for a parameter and what autograd hands on of it."""
    return tensor.untyped_storage()._cdata


def _attention(query: Tensor, value: Tensor) -> Tensor:
    """Of fake tensors: shape and type are all there is to it; a GPU's kernels are not here."""
    dtype = query.dtype
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
    return query.new_empty((*query.shape[:-1], value.shape[-1]), dtype=dtype)


def _indexed(tensor: Tensor, index: Any) -> Tensor:
    """tensor[index]"""
    parts = list(index) if isinstance(index, tuple) else [index]
    if not any(part is Ellipsis for part in parts):
        parts.append(Ellipsis)
    at = next(i for i, part in enumerate(parts) if part is Ellipsis)
    indices = sum(part is not None for part in parts) - 1
    parts[at : at + 1] = [slice(None)] * (tensor.ndim - indices)
    dim = 0
    for part in parts:
        if part is None:
            tensor = tensor.unsqueeze(dim)
        elif isinstance(part, slice):
            tensor = torch.ops.aten.slice(tensor, dim, part.start, part.stop, part.step or 1)
        elif isinstance(part, int):
            tensor, dim = tensor.select(dim, part), dim - 1
        else:
            index = torch.as_tensor(part, device=tensor.device)
            tensor = torch.ops.aten.index(tensor, [*[None] * dim, index])
        dim += 1
    return tensor


# Methods that look for the GPU's driver before they call operators, and the operators.
ASK_THE_DRIVER = {
    "__getitem__": _indexed,
    "__setitem__": lambda tensor, index, value: torch.ops.aten.copy_(
        _indexed(tensor, index), value
    ),
    "copy_": torch.ops.aten.copy_,
    "contiguous": lambda tensor: tensor.clone(memory_format=torch.contiguous_format),
}


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, tensors have no values, and those on FAKE_CUDA behave as on a GPU with bfloat16."""
    monkeypatch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda *_, **__: True)
    # Whether positions start again within a row, for which it waits on a GPU; they do not.
    monkeypatch.setattr("transformers.masking_utils.find_packed_sequence_indices", lambda _: None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def on_fake_cuda(model: torch.nn.Module) -> torch.nn.Module:
    """The model with its parameters, frozen, and buffers on FAKE_CUDA; tied weights stay tied."""
    moved: dict[int, Tensor] = {}
    for module in model.modules():
        for kind in (module._parameters, module._buffers):
            for name, tensor in kind.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    copy: Tensor = tensor.detach().to(FAKE_CUDA)
                    if isinstance(tensor, torch.nn.Parameter):
                        copy = torch.nn.Parameter(copy, requires_grad=False)
                    moved[id(tensor)] = copy
                kind[name] = moved[id(tensor)]  # type: ignore[assignment]
    return model
