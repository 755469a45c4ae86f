"""Tiny models and tokenizers that the tests make themselves."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

TEXTS = ["The teacher reads what the student writes, token by token.", "1 + 2 = 3, naïve 語 🙂"]
EOS, PAD = 0, 1

torch.set_num_threads(1)  # models this small only wait for each other on several


def tokenizer(pad_is_eos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 300 ids; any text can be encoded."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<pad>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>" if pad_is_eos else "<pad>"
    )


def config(kind: str, vocab: int) -> Any:
    common = {"vocab_size": vocab, "bos_token_id": None, "eos_token_id": EOS, "pad_token_id": PAD}
    small = common | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 8,
    }
    if kind == "qwen3":
        return Qwen3Config(**small, num_key_value_heads=2, tie_word_embeddings=True)
    if kind == "llama":
        return LlamaConfig(**small, num_key_value_heads=2)
    if kind == "gpt2":
        return GPT2Config(
            **common,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=256,
            attn_pdrop=0.5,
            resid_pdrop=0.5,
            embd_pdrop=0.5,
        )
    if kind == "gemma2":
        return Gemma2Config(
            **small,
            num_key_value_heads=2,
            query_pre_attn_scalar=8,
            sliding_window=6,
            final_logit_softcapping=5.0,
        )
    raise ValueError(kind)


KINDS = ("qwen3", "llama", "gpt2", "gemma2")
# One of each kind that is decoded over keys and values of all tokens, by the model's own forward.
WITH_A_CACHE = {
    "dense": "granite",
    "positions learnt": "gpt2",
    "soft-capped, sliding": "gemma2",
    "sliding by type": "gemma3_text",
    "attention without sdpa": "gpt_oss",
    "mixture of experts": "qwen3_moe",
    "latent attention": "minicpm3",
    "keys and values of different widths": "mimo_v2_flash",
}


def save_model(
    folder: Path,
    kind: str = "qwen3",
    *,
    seed: int = 0,
    vocab: int = 310,
    scale: float = 6.0,
    pad_is_eos: bool = False,
    eos: int | list[int] = EOS,
) -> str:
    """Saves a random model whose distributions are far from uniform; returns the folder."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config(kind, vocab))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and "norm" not in name:
                parameter.mul_(scale)
    model.generation_config.eos_token_id = eos
    model.save_pretrained(folder)
    tokenizer(pad_is_eos).save_pretrained(folder)
    return str(folder)


def save_pair(root: Path) -> Path:
    """A student, a teacher, and prompts that a run of them is made from; returns the folder."""
    for seed, name in enumerate(("student", "teacher")):
        save_model(root / name, seed=seed, scale=3.0)
    rows = [{"prompt": f"question {i}", "answer": "3", "completion": f"so {i}"} for i in range(20)]
    (root / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root
