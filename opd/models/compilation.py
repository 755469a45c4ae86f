"""torch.compile, where a run asks for it: what stands between the products becomes a few kernels.

Compiled are the layers of Llama-shaped models and the functions that are marked `compilable`, and
only inside a `Compilation`: sampling, evaluation and everything interactive compute as ever. Sizes
are dynamic but for a tensor's last, so that rows of other lengths compile nothing again and kernels
know how rows of the vocabulary are aligned.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import fields, is_dataclass
from functools import cache, wraps
from subprocess import SubprocessError
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from opd.errors import one_line, raise_lack_of_memory
from opd.models.architecture import LLAMAS
from opd.models.forward import causal
from opd.models.routes import CANNOT

P = ParamSpec("P")
R = TypeVar("R")
BACKEND = "inductor"
# First and other layers, of each model, recomputed or not, one row or more: beyond this number
# torch compiles no further ones, and tells only a log of its own.
KINDS_OF_LAYERS = 32
# Compilers fail in ways of their own: no linker, no headers, an operator that is not known
FAILURES = (*CANNOT, ImportError, OSError, SubprocessError)
TOLERANCE = {torch.float32: 0.01, torch.bfloat16: 0.1}  # of the largest value; products are TF32

_ACTIVE: ContextVar[bool] = ContextVar("compiling", default=False)


def compilable(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled where a `Compilation` is entered. Its loops and branches may depend on
    sizes and settings, not on values."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _ACTIVE.get():
            return function(*args, **kwargs)
        for tensor in _tensors([*args, *kwargs.values()]):
            if tensor.ndim > 1:
                torch._dynamo.mark_static(tensor, tensor.ndim - 1)  # loaded when first asked for
        result: R = _compiled(function, BACKEND)(*args, **kwargs)
        return result

    return call


class Compilation:
    """Of a run's update: tried once, against the same without it, and given up where it fails.

    `say` is told why.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None) -> None:
        self._say = say
        self._works: bool | None = None
        self._calls: dict[Any, Any] = {}  # of layers, while the run lasts

    @contextmanager
    def __call__(self, models: Sequence[Any], trial: Callable[[], Tensor]) -> Iterator[None]:
        """Inside, these models and all `compilable` functions are compiled. `trial` returns what an
        update of a few tokens computes; it leaves nothing behind."""
        if self._works is None:
            self._works = self._tried(models, trial)
        if not self._works:
            yield
            return
        with self._compiling(models):
            yield

    @contextmanager
    def _compiling(self, models: Sequence[Any]) -> Iterator[None]:
        layers = [layer for model in models for layer in _layers(model)]
        token = _ACTIVE.set(True)
        for layer in layers:
            if layer not in self._calls:
                layer.compile(dynamic=True, backend=BACKEND)
                self._calls[layer] = layer._compiled_call_impl
            layer._compiled_call_impl = self._calls[layer]
        try:
            # Else a norm's ε is a tensor of the host, whose kernel waits for a C++ compiler
            settings = {"specialize_float": True, "recompile_limit": KINDS_OF_LAYERS}
            with warnings.catch_warnings(), torch._dynamo.config.patch(settings):
                warnings.simplefilter("ignore")  # torch warns of what its own tracing does
                yield
        finally:
            _ACTIVE.reset(token)
            for layer in layers:
                layer._compiled_call_impl = None

    def _tried(self, models: Sequence[Any], trial: Callable[[], Tensor]) -> bool:
        expected = trial()
        self._say("compiling what the update computes")
        try:
            with self._compiling(models):
                actual = trial()
        except FAILURES as error:
            if isinstance(error, RuntimeError):
                raise_lack_of_memory(error)
            self._say(f"without torch.compile, which failed: {one_line(error)}")
            return False
        limit = TOLERANCE.get(causal(models[0]).dtype, 0.1) * float(expected.abs().max())
        gap = float((actual - expected).abs().max())
        if not gap <= limit:
            self._say(f"without torch.compile, whose results differ by {gap:.3g}")
            return False
        return True


def _tensors(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among some arguments, and in the fields of those that have fields."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif is_dataclass(value) and not isinstance(value, type):
            yield from _tensors(getattr(value, field.name) for field in fields(value))


@cache
def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True, backend=backend)


def _layers(model: Any) -> list[Any]:
    """Those that are compiled, of a model that is worth it."""
    whole = causal(model)
    if whole.config.model_type not in LLAMAS or getattr(whole, "is_quantized", False):
        return []
    return list(whole.model.layers)
