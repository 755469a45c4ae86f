"""How many parameters a model has, how many are trained, and how many one token meets."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opd.config.layer_kinds import active_experts, experts

ROUTED = re.compile(r"(^|\.)experts\.")  # weights of the experts that a token is routed between


@dataclass(frozen=True)
class ParameterCounts:
    """`total` holds the adapter's too, as peft's `print_trainable_parameters` counts; `active` are
    all but those of the experts that a token is not routed to; `adapted` of the base lie beneath an
    adapter (0 without one): the others stay as they are, such as a mixture's experts where only
    modules are named."""

    trainable: int
    total: int
    active: int
    adapted: int = 0

    def __str__(self) -> str:
        active = f", {self.active:,} active per token" if self.active < self.total else ""
        text = f"{self.trainable:,} of {self.total:,} parameters are trained{active}"
        if not self.adapted:
            return text
        share = self.adapted / (self.total - self.trainable)
        return f"{text}, by an adapter on {share:.0%} of the rest"


def count_parameters(model: Any) -> ParameterCounts:
    """Counts each tensor once, with or without an adapter upon the model."""
    share = routed_share(model.config.get_text_config().to_dict())
    trainable = total = 0
    active = 0.0
    for name, parameter in model.named_parameters():
        size = numbers_of(parameter)
        trainable += size if parameter.requires_grad else 0
        total += size
        active += size * (share if ROUTED.search(name) else 1.0)
    beneath = sum(numbers_of(weight) for weight in adapted_weights(model))
    return ParameterCounts(trainable, total, round(active), beneath)


def adapted_weights(model: Any) -> dict[Any, list[Any]]:
    """The base's parameters that adapters change, each with peft's layers that do."""
    weights: dict[Any, list[Any]] = {}
    for layer in model.modules():
        if hasattr(layer, "get_delta_weight"):
            weight = getattr(layer.get_base_layer(), getattr(layer, "parameter_name", "weight"))
            weights.setdefault(weight, []).append(layer)
    return weights


def routed_share(config: Mapping[str, Any]) -> float:
    """The share of a mixture's experts that a token is routed to; 1 without experts."""
    count = experts(config)
    return active_experts(config) / count if count else 1.0


def numbers_of(parameter: Any) -> int:
    """How many numbers a parameter stands for: 4-bit ones are stored two to a byte."""
    packed = getattr(parameter, "quant_state", None)
    return int(packed.shape.numel() if packed is not None else parameter.numel())


def checksum(tensors: Iterable[Tensor]) -> str:
    """Of their bits, which depends on no order of additions."""
    words = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    sums = [t.detach().view(words[t.element_size()]).sum(dtype=torch.int64) for t in tensors]
    return hashlib.sha256(repr([int(s) for s in sums]).encode()).hexdigest()[:16]
