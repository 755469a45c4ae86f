"""What a config.json says of how its model computes. Free of torch."""

from collections.abc import Iterator, Mapping
from typing import Any

# Model types whose configuration does not name its layers' types.
RECURRENT = ("falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm")
HYBRID = (
    *("bamba", "falcon_h1", "granitemoehybrid", "inkling_text", "inkling2_text", "jamba"),
    *("inkling2_loop_text", "lfm2", "lfm2_moe", "minimax", "nemotron_h", "recurrent_gemma"),
    *("zamba", "zamba2", "zaya"),
)
ALIBI = ("bloom", "mpt")
STATEFUL = ("linear", "mamba", "conv", "recurrent", "hybrid", "ssm", "rwkv")  # in a layer type


def kinds(config: Mapping[str, Any]) -> list[str]:
    """What a causal model's configuration says of its layers, in words; one word at least."""
    text = config.get("text_config")
    whole = {**config, **text} if isinstance(text, Mapping) else config
    listed = whole.get("layer_types") or whole.get("layers_block_type") or ()
    types = {str(t) for t in listed}
    stateful = {t for t in types if any(word in t for word in STATEFUL)}
    model_type = str(whole.get("model_type"))
    marks = {
        "recurrent": model_type in RECURRENT,
        "hybrid": model_type in HYBRID or bool(stateful),
        "latent attention": isinstance(whole.get("kv_lora_rank"), int),
        "indexed attention": any("index" in t or "sparse" in t for t in types),
        "sliding window": any("sliding" in t or "chunked" in t for t in types)
        or (not types and bool(whole.get("sliding_window"))),
        "shared keys and values": bool(whole.get("num_kv_shared_layers")),
        "ALiBi": model_type in ALIBI or whole.get("alibi") is True,
        "mixture of experts": experts(whole) > 1,
        "wrapper": isinstance(text, Mapping),
    }
    return [word for word, is_so in marks.items() if is_so] or ["dense"]


def experts(config: Mapping[str, Any]) -> int:
    """How many experts a token is routed between; 0 without any."""
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    inner = config.get("ffn_config")
    for part in (config, inner if isinstance(inner, Mapping) else {}):
        for name in names:
            value = part.get(name)
            if isinstance(value, int) and value > 0:
                return value
            if isinstance(value, list) and value and isinstance(value[0], int):
                return value[0]
    return 0


def active_experts(config: Mapping[str, Any]) -> int:
    """How many experts a token is routed to: all of them where the configuration does not say."""
    names = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts")
    inner = config.get("ffn_config")
    more = inner.get("moe_top_k") if isinstance(inner, Mapping) else None
    values = (*(config.get(name) for name in names), config.get("moe_top_k"), more)
    total = max(1, experts(config))
    return min(total, next((v for v in values if isinstance(v, int) and v > 0), total))


def context(config: Mapping[str, Any]) -> int | None:
    """How many tokens a row may have; None where the configuration does not say.

    Doge leaves keys out in longer rows than `keep_window_size`, by their padded length.
    """
    names = ("max_position_embeddings", "n_positions", "keep_window_size")
    limits = (config.get(name) for name in names)
    return min((n for n in limits if isinstance(n, int) and n > 0), default=None)


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
