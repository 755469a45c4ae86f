"""A tiny configuration of any causal model that transformers has, by the names of its fields.

Widths, layers, heads, experts and vocabulary become small, everything that makes the architecture
what it is stays as its authors set it: of its layers, one of each type. OVERRIDES is what names
alone do not tell.
"""

import re
from collections.abc import Mapping
from typing import Any

from transformers import CONFIG_MAPPING

from opd.config.model_files.kind import ENCODERS

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
        r"^(hidden_size|d_model|n_embd|dim|emb_dim|embed_dim|embedding_size|embedding_dim|word_embed_proj_dim)$",
        MODEL,
    ),
    (
        r"^(hidden_size_global|adapter_\w+(size|dim)|hidden_dim|attention_hidden_size|lru_width|d_kv_in|num_patches_hidden)$",
        MODEL,
    ),
    (
        r"(intermediate_size(_mlp)?|ffn_dim|d_inner|dim_ff|d_ff|n_inner|ffn_hidden_size|dff|mlp_hidden_size)$",
        48,
    ),
    (r"(num_key_value_heads|num_kv_heads|n_head_kv|kv_heads|kv_n_heads)$", 2),
    (r"(attention_heads|n_head|n_heads|num_heads|key_heads|value_heads)$", HEADS),
    (r"head_?dim$|^(d_head|dim_head|rotary_dim|d_kv|kv_channels|adapter_rank)$", HEAD),
    (r"^(num_experts|num_local_experts|n_routed_experts|moe_num_experts|num_routed_experts)$", 4),
    (r"^(num_experts_per_tok|num_experts_per_token|moe_topk|moe_k|top_k_experts|moe_top_k)$", 2),
    (r"^(?!keep_).*(sliding_window|window_size|local_attention|chunk_size)$", 6),
    (r"^(max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length)$", 256),
    (r"^(state_size|mamba_d_state|ssm_state_size)$", HEAD),
    (r"^index_topk$", 64),
    (r"^(n_group|topk_group|num_expert_group)$", 2),
)
LAYERS = re.compile(r"^(num_(hidden_|decoder_|encoder_)?layers|n_layers?|(en|de)coder_layers)$")
MAMBA2 = {"mamba_n_heads": 8, "mamba_d_head": 8}  # as many inner values as expand × width
ALTERNATING = ["sliding_attention", "full_attention"]
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
DOTS3 = {"head_dim": 2 * HEAD, "per_layer_config": {}}

OVERRIDES: dict[str, dict[str, Any]] = {
    **{model_type: {"is_decoder": True} for model_type in (*ENCODERS, "bert-generation")},
    "bamba": MAMBA2 | {"attn_layer_indices": [1]},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "cohere_compass_text": {
        "layer_types": ALTERNATING,
        "rope_parameters": dict.fromkeys(ALTERNATING, ROPE),
    },
    "dbrx": {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dory": {
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention", "mlp", *["full_attention", "mlp"] * 2],
        **{f"n_{part}_layers": 2 for part in ("input", "recurrent", "output")},
    },
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note_text": DOTS3,
    "falcon_h1": MAMBA2 | {"mamba_d_ssm": 64},
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ALTERNATING * 2,
        "intermediate_size": [48] * 4,
        "activation_sparsity_pattern": [0.95, 0.0, 0.0, 0.0],
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 8,
    },
    "granitemoehybrid": MAMBA2 | {"layer_types": ["mamba", "attention"]},
    "hrm_text": {"num_layers_per_stack": 1, "num_hidden_layers": 8},
    "hunyuan_v1_dense": {"head_dim": HEAD},
    "hunyuan_v1_moe": {"head_dim": HEAD},
    "jamba": {
        **{"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4},
        "use_mamba_kernels": False,
    },
    "lfm2": {
        "num_hidden_layers": 2,
        "layer_types": ["conv", "full_attention"],
        "full_attn_idxs": [1],
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba2": {"num_heads": 8, "n_groups": 1},
    "ministral": {"head_dim": HEAD},
    "nemotron": {"head_dim": HEAD, "num_key_value_heads": 2},
    "nemotron_h": {"mamba_num_heads": 8, "n_groups": 1},
    "qwen4_exp_text": {
        **{"indexer_n_heads": HEADS, "indexer_kv_heads": 1, "indexer_head_dim": HEAD},
        **{"indexer_budget": 8, "indexer_compress_ratio": 2},
    },
    "recurrent_gemma": {"num_hidden_layers": 3},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xlm": {"causal": True},
    "xlstm": {"num_blocks": 2},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        **{"attention_hidden_size": 64, "attention_head_dim": 16, "mamba_dt_rank": 4},
        "use_mamba_kernels": False,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "hybrid_layer_ids": [1, 3],
        **{"attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 8},
    },
}


def tiny_config(model_type: str) -> Any:
    """A configuration of about a hundred thousand parameters."""
    kind = CONFIG_MAPPING[model_type]
    fields = _small(kind().to_dict())
    fields.pop("model_type", None)
    return kind(**fields | OVERRIDES.get(model_type, {}))


def _small(fields: Mapping[str, Any]) -> dict[str, Any]:
    count = next((v for k, v in fields.items() if LAYERS.match(k) and isinstance(v, int)), 0)
    by_layer = {
        name: value
        for name, value in fields.items()
        if isinstance(value, list) and count and len(value) == count
    }
    numbering = {name for name, value in by_layer.items() if value == list(range(count))}
    chosen = _one_of_each([v for k, v in by_layer.items() if k not in numbering], count)
    small = {
        name: list(range(len(chosen)))
        if name in numbering
        else [value[i] for i in chosen]
        if name in by_layer
        else _field(name, value, chosen)
        for name, value in fields.items()
        if name not in ("transformers_version", "architectures", "dtype", "_name_or_path")
    }
    if "kv_lora_rank" in small:  # latent attention: one latent for all heads
        small |= {"num_key_value_heads": HEADS, "head_dim": HEAD, "qk_head_dim": 2 * HEAD}
    ids = {"eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": BOS}
    return small | {name: value for name, value in ids.items() if name in small}


def _one_of_each(by_layer: list[list[Any]], count: int) -> list[int]:
    """The numbers of the layers that stay: the first of each type, and two at least."""
    kinds: dict[tuple[str, ...], int] = {}
    for layer in range(count):
        kinds.setdefault(tuple(str(values[layer]) for values in by_layer), layer)
    first = list(kinds.values()) if by_layer else [0]
    return sorted([*first, *(i for i in range(count) if i not in first)][: max(2, len(first))])


def _field(name: str, value: Any, layers: list[int]) -> Any:
    if name == "per_layer_config" and isinstance(value, Mapping):
        return {layers.index(int(old)): _small(v) for old, v in value.items() if int(old) in layers}
    if isinstance(value, Mapping) and name.endswith("config"):
        return _small(value) | OVERRIDES.get(str(value.get("model_type")), {})
    if isinstance(value, bool) or not isinstance(value, int):
        return value
    if LAYERS.match(name):
        return len(layers) or 2
    limit = next((size for pattern, size in SIZES if re.search(pattern, name)), value)
    return min(value, limit)
