"""What is sampled from, where that is not the weights that are trained.

A token of a completion reads every weight once and computes little with it. Weights that are held
wider than the run computes would be cast again at every token, and an adapter beside each matrix
costs as much as small matrices do; so a copy in the run's dtype, with the adapter merged, is made
once and brought up to date, in place, whenever sampling begins. What the copy rounds away shows as
the sampler gap of the step.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from opd.devices.choice import free_bytes
from opd.models.forward import causal, take_route
from opd.models.parameters import adapted_weights
from opd.models.routes import find_route

SHARE_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
SPARE = 0.1  # of the free memory, which the copy leaves
log = logging.getLogger(__name__)


class SamplingCopy:
    """The student in `dtype` with its adapter merged; parameters that are so already are shared.

    Made at the first call; every call brings it up to date and returns it, or None where the
    memory does not allow it, which `say` is told once.
    """

    def __init__(
        self, student: Any, dtype: torch.dtype, say: Callable[[str], None] = log.info
    ) -> None:
        self._student, self._dtype, self._say = student, dtype, say
        self._merges = adapted_weights(student)
        self._targets: list[
            tuple[nn.Parameter, nn.Parameter]
        ] = []  # a parameter, and what stands for it
        self._model: Any = None
        self._refused = False

    @property
    def bytes(self) -> int:
        """What it takes beside the student."""
        return sum(p.numel() for p in self._separate()) * self._dtype.itemsize

    @torch.no_grad()
    def __call__(self) -> Any | None:
        if self._model is None and not self._refused:
            self._make()
        self._bring_up_to_date(self._targets, self._merges)
        return self._model

    @staticmethod
    def _bring_up_to_date(
        targets: Sequence[tuple[Any, Tensor]], merges: Mapping[Any, Sequence[Any]]
    ) -> None:
        """Each target from its source, with the adapters that change it merged."""
        for source, target in targets:
            deltas = [layer.get_delta_weight("default") for layer in merges.get(source, ())]
            if deltas:
                torch.add(source, sum(deltas[1:], deltas[0]), out=target)
            else:
                target.copy_(source)

    def _separate(self) -> list[nn.Parameter]:
        """The parameters that the copy has apart from the student's."""
        whole = causal(self._student)
        wide = tuple(getattr(whole, "_keep_in_fp32_modules_strict", None) or ())
        return [
            p
            for p, name in self._held().items()
            if p in self._merges or (p.dtype != self._dtype and not {*name.split(".")} & {*wide})
        ]

    def _held(self) -> dict[nn.Parameter, str]:
        """The names of the student's parameters without those of its adapter."""
        return {
            p: name
            for name, p in causal(self._student).named_parameters()
            if not any(part.startswith("lora_") for part in name.split("."))
        }

    def _make(self) -> None:
        device = next(self._student.parameters()).device
        free = free_bytes(device)
        if self.bytes > (1 - SPARE) * free:
            self._refuse(free)
            return
        model = self._outline()
        self._take_room(model, device)
        self._model = model
        self()
        take_route(model, find_route(model, where="student.model"))

    def _refuse(self, free: int) -> None:
        self._refused = True
        self._say(
            f"sampling from the trained weights themselves, which is slower: a copy in "
            f"{str(self._dtype).removeprefix('torch.')} takes "
            f"{self.bytes / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free"
        )

    def _outline(self) -> Any:
        """The copy, whose own parameters are still empty."""
        whole = causal(self._student)
        stands_for: dict[int, Any] = {id(t): t for t in (*whole.parameters(), *whole.buffers())}
        for source in self._separate():
            empty = source.new_empty(0, dtype=self._dtype)
            stands_for[id(source)] = nn.Parameter(empty, requires_grad=False)
            self._targets.append((source, stands_for[id(source)]))
        model = copy.deepcopy(whole, stands_for)
        for name, layer in _layers(model):
            model.set_submodule(name, layer.get_base_layer())
        return model

    def _take_room(self, model: Any, device: torch.device) -> None:
        """For what the copy has of its own."""
        rooms = {
            target: torch.empty(source.shape, dtype=self._dtype, device=device)
            for source, target in self._targets
        }
        for weights in _sharing_inputs(model, rooms):
            sizes = [len(rooms[w]) for w in weights]
            buffer = rooms[weights[0]].new_empty((sum(sizes), rooms[weights[0]].shape[1]))
            rooms |= zip(weights, torch.split(buffer, sizes), strict=True)
        for target, room in rooms.items():
            target.data = room


def _sharing_inputs(model: Any, targets: Mapping[Any, object]) -> Iterator[list[Any]]:
    """Weights (out, in) that read the same input, to lie side by side: one product for all."""
    for module in model.modules():
        for names in SHARE_INPUTS:
            linears: list[Any] = [getattr(module, name, None) for name in names]
            weights: list[Any] = [x.weight for x in linears if isinstance(x, nn.Linear)]
            if len(weights) == len(names) and all(w in targets for w in weights):
                yield weights


def _layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Modules with an adapter of their own by name, the outermost of nested ones."""
    inside = ""
    for name, module in [*model.named_modules()]:
        if hasattr(module, "get_delta_weight") and not (inside and name.startswith(inside)):
            inside = f"{name}."
            yield name, module
