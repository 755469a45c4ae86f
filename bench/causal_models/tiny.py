"""A tiny configuration of any causal model that transformers has, by the names of its fields.

Widths, layers, heads, experts and vocabulary become small, everything that makes the architecture
what it is stays as its authors set it: of its layers, one of each type. OVERRIDES is what names
alone do not tell.
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

VOCAB = 320
EOS, PAD, BOS = 0, 1, 2
MODEL, HEADS, HEAD = 32, 4, 8

# The first rule that a field's name matches gives the most that it may be.
SIZES: tuple[tuple[str, int], ...] = (
    (r"vocab_size(_per_layer_input)?$", VOCAB),
    (r"^(qk_nope|qk_rope)_head_dim$", HEAD),
    (r"^v_head_dim$", 12),
    (r"^(q|kv)_lora_rank$", 16),
    (r"(moe|expert|shared).*(intermediate|ffn|hidden)_?(size|dim)$", 16),
    (
        r"^(hidden_size|d_model|n_embd|dim|emb_dim|embed_dim|embedding_size|word_embed_proj_dim)$",
        MODEL,
    ),
    (r"^(hidden_dim|attention_hidden_size|lru_width|d_kv_in|num_patches_hidden)$", MODEL),
    (r"(intermediate_size(_mlp)?|ffn_dim|d_ff|n_inner|ffn_hidden_size|dff|mlp_hidden_size)$", 48),
    (r"(num_key_value_heads|num_kv_heads|n_head_kv|kv_heads|kv_n_heads)$", 2),
    (r"(attention_heads|n_head|n_heads|num_heads|key_heads|value_heads)$", HEADS),
    (r"head_dim$|^d_head$|^rotary_dim$|^d_kv$", HEAD),
    (r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts)$", 4),
    (r"^(num_experts_per_tok|num_experts_per_token|moe_topk|moe_k|top_k_experts|moe_top_k)$", 2),
    (r"(sliding_window|window_size|local_attention|chunk_size)$", 6),
    (r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length)$", 256),
    (r"^(state_size|mamba_d_state|ssm_state_size)$", HEAD),
    (r"^index_topk$", 64),
)
LAYERS = re.compile(r"^(num_(hidden_|decoder_|encoder_)?layers|n_layers?|(en|de)coder_layers)$")
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2, "mamba_n_groups": 1}
DECODER = {"is_decoder": True}

OVERRIDES: dict[str, dict[str, Any]] = {}


def tiny_config(model_type: str) -> Any:
    """A configuration of about a hundred thousand parameters."""
    kind = CONFIG_MAPPING[model_type]
    fields = _small(kind().to_dict())
    fields.pop("model_type", None)
    return kind(**fields | OVERRIDES.get(model_type, {}))


def _small(fields: Mapping[str, Any]) -> dict[str, Any]:
    count = next((v for k, v in fields.items() if LAYERS.match(k) and isinstance(v, int)), None)
    by_layer = {
        k: v for k, v in fields.items() if isinstance(v, list) and count and len(v) == count
    }
    chosen = _one_of_each(list(by_layer.values()), count or 0)
    small = {
        name: [value[i] for i in chosen] if name in by_layer else _field(name, value, len(chosen))
        for name, value in fields.items()
        if name not in ("transformers_version", "architectures", "dtype", "_name_or_path")
    }
    if "kv_lora_rank" in small:  # latent attention: one latent for all heads
        small |= {"num_key_value_heads": HEADS, "head_dim": small.get("qk_rope_head_dim", HEAD)}
    ids = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": BOS}
    return small | {name: value for name, value in ids.items() if name in small}


def _one_of_each(by_layer: list[list[Any]], count: int) -> list[int]:
    """The numbers of the layers that stay: the first of each type, and two at least."""
    kinds: dict[tuple[str, ...], int] = {}
    for layer in range(count):
        kinds.setdefault(tuple(str(values[layer]) for values in by_layer), layer)
    first = list(kinds.values()) if by_layer else [0]
    return sorted([*first, *(i for i in range(count) if i not in first)][: max(2, len(first))])


def _field(name: str, value: Any, layers: int) -> Any:
    if isinstance(value, Mapping) and name.endswith("config"):
        return _small(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if LAYERS.match(name):
        return layers or 2
    if name.endswith(("token_id", "token_index")):
        return min(value, VOCAB - 1)
    limit = next((size for pattern, size in SIZES if re.search(pattern, name)), value)
    return min(value, limit)
