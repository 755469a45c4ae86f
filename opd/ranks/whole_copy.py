"""What is sampled from where the student's layers are cut among processes: a whole copy of it.

To write a token in step, all processes would put every layer together once a token. The copy takes
the memory of the student in the run's dtype; weights, gradients and moments stay cut. Where one of
the devices has no room for it, the layers write in step all the same, slowly.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from opd.devices.choice import free_bytes
from opd.models.forward import take_route
from opd.models.parameters import adapted_weights
from opd.models.routes import find_route
from opd.ranks.layers import layers_of
from opd.ranks.sharding import Shards
from opd.sampling.sampling_copy import SPARE, SamplingCopy

COPY = "copy"
log = logging.getLogger(__name__)


class WholeCopy(SamplingCopy):
    """To be outlined before the layers are cut; every call is one of all processes, in step."""

    def __init__(
        self,
        student: Any,
        dtype: torch.dtype,
        shards: Shards,
        say: Callable[[str], None] = log.info,
    ) -> None:
        super().__init__(student, dtype, say)
        self._shards = shards
        layers = layers_of(student, where="student.model")
        self._inside = {p for layer in layers for p in layer.parameters()}
        self._bytes = super().bytes
        self._outlined: Any = self._outline()
        targets = dict(self._targets)
        self._of_layers = [
            {name: targets[p] for name, p in layer.named_parameters() if p in targets}
            for layer in layers
        ]
        self._around = [(p, t) for p, t in self._targets if p not in self._inside]
        shards.ranks.offer(COPY, self._in_step)

    @property
    def bytes(self) -> int:
        return self._bytes

    def __call__(self) -> Any | None:
        if not self._refused:
            with self._shards.ranks.in_step(COPY):
                self._in_step()
        return self._model

    def _separate(self) -> list[nn.Parameter]:
        separate = {id(p) for p in super()._separate()}
        return [p for p in self._held() if id(p) in separate or p in self._inside]

    @torch.no_grad()
    def _in_step(self) -> None:
        """Makes the copy where there is none, and puts the layers together for it one by one."""
        made = self._model is not None
        if not made and not self._has_room():
            return
        self._bring_up_to_date(self._around, self._merges)
        layers: list[Any] = layers_of(self._student, where="student.model")
        for layer, targets in zip(layers, self._of_layers, strict=True):
            layer.unshard()
            now = dict(layer.named_parameters())
            pairs = [(now[name], target) for name, target in targets.items()]
            self._bring_up_to_date(pairs, adapted_weights(layer))
            layer.reshard()
        if not made:
            take_route(self._model, find_route(self._model, where="student.model"))

    def _has_room(self) -> bool:
        """On all devices; then it is taken."""
        device = self._shards.device
        free = free_bytes(device)
        free = self._shards.least(free)
        if self._bytes > (1 - SPARE) * free:
            self._refuse(free)
            return False
        self._take_room(self._outlined, device)
        self._model = self._outlined
        return True
