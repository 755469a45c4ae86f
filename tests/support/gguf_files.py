"""GGUF files: those that the tests write, as llama.cpp's converter would, and SmolLM2's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opd.config.gguf.smollm import INSTALL_PACKAGE, smollm2_file
from opd.errors import UserError
from opd.models.folders.resolve import silent
from storage.data_dir import DataDir

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NORMAL, CONTROL = 1, 3


def write_llama(
    path: Path,
    model: Any,
    tokenizer: Any,
    *,
    pre: str = "smollm",
    add: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    without: tuple[str, ...] = (),
    architecture: str = "llama",
) -> Path:
    """Writes a Llama model in float32 with its byte-level tokenizer.

    `add` are further metadata, `tensors` further tensors, `without` tensors to leave out.
    """
    import gguf  # noqa: PLC0415 - an extra

    writer = gguf.GGUFWriter(path, architecture)
    _write_shape(writer, model.config)
    _write_tokenizer(writer, tokenizer, pre)
    for key, value in (add or {}).items():
        (writer.add_string if isinstance(value, str) else writer.add_uint32)(key, value)
    heads = model.config.num_attention_heads, model.config.num_key_value_heads
    for name, value in model.state_dict().items():
        short = _name(name)
        tied = model.config.tie_word_embeddings and short == "output.weight"
        if short not in without and not tied:
            writer.add_tensor(short, _stored(short, value, *heads))
    for name, array in (tensors or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_shape(writer: Any, config: Any) -> None:
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)


def _write_tokenizer(writer: Any, tokenizer: Any, pre: str) -> None:
    backend = tokenizer.backend_tokenizer
    vocab = sorted(backend.get_vocab(), key=backend.get_vocab().__getitem__)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocab)
    writer.add_token_types([CONTROL if t in special else NORMAL for t in vocab])
    writer.add_token_merges([" ".join(m) for m in _merges(backend)])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _merges(backend: Any) -> list[tuple[str, str]]:
    return [tuple(m) for m in json.loads(backend.to_str())["model"]["merges"]]


def _name(name: str) -> str:
    name = name.replace("model.layers.", "blk.") if "layers" in name else name
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def _stored(name: str, value: torch.Tensor, heads: int, kv_heads: int) -> np.ndarray:
    """llama.cpp pairs neighbouring numbers of queries and keys where transformers pairs halves."""
    array = value.detach().float().numpy()
    if not name.endswith(("attn_q.weight", "attn_k.weight")):
        return array
    count = heads if "attn_q" in name else kv_heads
    rows, columns = array.shape
    halves = array.reshape(count, 2, rows // count // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))


def is_installed() -> bool:
    try:
        smollm2_file(where="tests")
    except UserError:
        return False
    return True


needs_smollm = pytest.mark.skipif(
    not is_installed(), reason=f"NO TESTS OF SMOLLM2: {INSTALL_PACKAGE}"
)


def converted(shared: Path) -> DataDir:
    """A data directory with the model in it, which the session's workers share."""
    from app.worker.models.converted import smollm2_folder  # noqa: PLC0415 - late, as in a job

    data_dir = DataDir(shared / "smollm2")
    smollm2_folder(data_dir, where="tests", say=silent)
    return data_dir
