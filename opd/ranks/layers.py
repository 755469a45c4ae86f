"""The layers of a decoder, where they can be told apart from what stands around them."""

from collections import Counter
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from opd.models.forward import causal
from opd.models.routes import refused


def layers_of(model: Any, *, where: str) -> list[nn.Module]:
    """In their order. Raises UserError for a model that is not one stack of layers, each with
    weights of its own."""
    whole = causal(model)
    stacks = [
        list(m)
        for m in whole.modules()
        if isinstance(m, nn.ModuleList)
        and len(m)
        and all(isinstance(layer, GradientCheckpointingLayer) for layer in m)
    ]
    if len(stacks) != 1:
        count = len(stacks) or "no"
        raise refused(model, f"it has {count} stacks of layers, where sharding needs one", where)
    (layers,) = stacks
    inside = Counter(id(p) for layer in layers for p in layer.parameters())
    held = {id(m) for layer in layers for m in layer.modules()}
    outside = {
        id(p) for m in whole.modules() if id(m) not in held for p in m.parameters(recurse=False)
    }
    if outside & inside.keys() or max(inside.values(), default=1) > 1:
        raise refused(model, "its layers share weights, which sharding would part", where)
    return layers
