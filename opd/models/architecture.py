"""A model's architecture, from its config.json, and how many parameters follow from it.

Free of torch: a model is measured before anything of it is loaded, and where it is not on this
disk, by its published one.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from opd.config.folders import RUN_REFERENCE, local_folder
from opd.config.gguf.header import is_gguf, read_header
from opd.config.layer_kinds import active_experts, context, experts
from opd.config.model_files.adapters import base_reference, is_adapter
from opd.config.model_files.quantized import held_as, method_of
from opd.config.model_files.weights import read_object, stored_numbers

LLAMAS = ("llama", "mistral", "qwen2", "qwen3")  # types whose layers are those of a Llama
WITH_HEAD_NORMS = ("qwen3", "qwen3_moe")
WITH_BIAS = ("qwen2",)  # of queries, keys and values


@dataclass(frozen=True)
class Architecture:
    """A decoder of `layers` layers; `stored` is the exact count where the weights are at hand."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    context: int | None = None
    kind: str = "qwen3"
    stored: int | None = None
    packed: str = "none"  # int8 or int4 where its folder's weights stay so in memory
    experts: int = 0  # of a mixture, all of one width; `intermediate` is that of a token's experts
    expert_width: int = 0
    adapted: int | None = None  # the exact count of an adapter's parameters, where it was made

    @property
    def embedding(self) -> int:
        """V · D: the embedding, and as much again for a head of its own."""
        return self.vocab * self.hidden

    @property
    def cached(self) -> int:
        """layers · 2 · key heads · head size: numbers of a token's keys and values."""
        return self.layers * 2 * self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear modules of one layer, by name; a mixture's experts are
        fused tensors, not modules."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
        }
        if self.experts:
            return attention
        return attention | {
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def in_linears(self) -> int:
        """layers · Σ inputs · outputs over the linear modules of a layer."""
        return self.layers * sum(a * b for a, b in self.linears.values())

    @property
    def parameters(self) -> int:
        """Embedding (twice with a head of its own) + linear modules + norms (2D a layer, D at the
        end, 2 · head size a layer where heads are normalised) + biases + experts and routers."""
        if self.stored is not None:
            return self.stored
        norms = self.layers * 2 * self.hidden + self.hidden
        if self.kind in WITH_HEAD_NORMS:
            norms += self.layers * 2 * self.head_dim
        biases = 0
        if self.kind in WITH_BIAS:
            biases = self.layers * (self.heads + 2 * self.kv_heads) * self.head_dim
        whole = self.embedding * (1 if self.tied else 2) + self.in_linears + norms + biases
        return whole + self.layers * self.experts * self.hidden * (3 * self.expert_width + 1)

    @property
    def matrices(self) -> int:
        """Parameters in products, per token: linear modules, its experts, router and the head."""
        routed = 3 * self.intermediate + self.experts if self.experts else 0
        return self.in_linears + self.layers * self.hidden * routed + self.embedding

    def adapter(self, rank: int, targets: str | list[str] = "all-linear") -> int:
        """layers · Σ rank · (inputs + outputs) over the modules that get an adapter."""
        if self.adapted is not None:
            return self.adapted
        chosen = self.linears if isinstance(targets, str) else set(targets)
        return self.layers * sum(rank * sum(self.linears.get(n, (0, 0))) for n in chosen)

    def beneath_adapter(self, targets: str | list[str] = "all-linear") -> int:
        """layers · Σ inputs · outputs over the modules that get an adapter; a mixture's experts
        (layers · experts · 3 · hidden · width) where a name is none of the modules'."""
        chosen = set(self.linears if isinstance(targets, str) else targets)
        modules = sum(math.prod(self.linears[n]) for n in chosen & set(self.linears))
        fused = self.experts if chosen - set(self.linears) else 0
        return self.layers * (modules + fused * 3 * self.hidden * self.expert_width)


def _qwen3(
    size: tuple[int, int, int, int], *, tied: bool = True, context: int = 40_960
) -> Architecture:
    hidden, layers, heads, intermediate = size
    return Architecture(hidden, layers, heads, 8, 128, intermediate, 151_936, tied, context)


_SMALL = _qwen3((1024, 28, 16, 3072))
PUBLISHED = {
    "Qwen/Qwen3-0.6B": _SMALL,
    "Qwen/Qwen3-0.6B-Base": replace(_SMALL, context=32_768),
    "Qwen/Qwen3-1.7B": _qwen3((2048, 28, 16, 6144)),
    "Qwen/Qwen3-4B": _qwen3((2560, 36, 32, 9728)),
    "Qwen/Qwen3-8B": _qwen3((4096, 36, 32, 12_288), tied=False),
    "Qwen/Qwen3-14B": _qwen3((5120, 40, 40, 17_408), tied=False),
    "Qwen/Qwen3-32B": _qwen3((5120, 64, 64, 25_600), tied=False),
}


def folder_at_hand(reference: str, *, where: str) -> Path | None:
    """The model's folder where it is on this disk: bundled, local, or in the hub's cache.

    None for what has to be fetched first, and for another run. Raises UserError as `local_folder`.
    """
    folder = local_folder(reference, where=where)
    if folder is not None or RUN_REFERENCE.fullmatch(reference):
        return folder
    try:
        cached = try_to_load_from_cache(reference, "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def architecture_of(reference: str, *, where: str) -> Architecture | None:
    """None where the model has no config.json on this disk and is not one of PUBLISHED."""
    folder = folder_at_hand(reference, where=where)
    if folder is None:
        return PUBLISHED.get(reference)
    if is_gguf(folder):
        header = read_header(folder, where=where)
        return from_config(header.as_config(), stored=header.parameters)
    if is_adapter(folder):
        return architecture_of(base_reference(folder, where=where), where=where)
    path = folder / "config.json"
    if not path.is_file():
        return None
    config = read_object(path, where=where)
    packs = method_of(config) is not None  # several numbers in one, and scales besides
    return from_config(config, stored=None if packs else stored_numbers(folder))


def from_config(config: dict[str, Any], *, stored: int | None = None) -> Architecture | None:
    """What a config.json describes; None where it lacks any of what is needed."""
    text = config.get("text_config")
    whole = {**config, **text} if isinstance(text, dict) else config

    def number(*names: str) -> int | None:
        values = (whole.get(n) for n in names)
        return next((v for v in values if isinstance(v, int) and v > 0), None)

    hidden, layers = number("hidden_size", "n_embd"), number("num_hidden_layers", "n_layer")
    heads, vocab = number("num_attention_heads", "n_head"), number("vocab_size")
    if hidden is None or layers is None or heads is None or vocab is None:
        return None
    width = number("intermediate_size", "n_inner") or 4 * hidden
    mixture = experts(whole) if experts(whole) > 1 else 0
    expert_width = number("moe_intermediate_size") or width if mixture else 0
    return Architecture(
        hidden,
        layers,
        heads,
        kv_heads=number("num_key_value_heads") or heads,
        head_dim=number("head_dim") or hidden // heads,
        intermediate=active_experts(whole) * expert_width if mixture else width,
        vocab=vocab,
        tied=bool(whole.get("tie_word_embeddings", config.get("model_type") == "gpt2")),
        context=context(whole),
        kind=str(config.get("model_type", "")),
        stored=stored,
        packed=held_as(config),
        experts=mixture,
        expert_width=expert_width,
    )
