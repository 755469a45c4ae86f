"""What a config.json says of how its model computes. Free of torch."""

from collections.abc import Iterator, Mapping
from typing import Any


def rope_switch(config: Mapping[str, Any]) -> int | None:
    """How many tokens a row may have before the model takes other rotary frequencies; else None.

    LongRoPE has one set of factors for rows of at most the length that the model was first trained
    with, and one for longer ones; the longest row of a batch decides for all.
    """
    limits = [
        limit
        for rope in _ropes(config)
        if rope.get("rope_type", rope.get("type")) == "longrope"
        for limit in [
            rope.get("original_max_position_embeddings")
            or config.get("original_max_position_embeddings")
        ]
        if isinstance(limit, int)
    ]
    return min(limits, default=None)


def _ropes(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The settings of its rotary positions: one, or one for each type of layer."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        if isinstance(rope, Mapping):
            yield rope
            yield from (part for part in rope.values() if isinstance(part, Mapping))
