"""A student's adapter on its way to the server, beside base weights that stay as they are.

Source: vLLM 0.32.0, vllm/entrypoints/openai/models/serving.py, vllm/lora/peft_helper.py.
"""

import re
import shutil
from pathlib import Path
from typing import Any

from torch import nn

from opd.models.forward import causal
from opd.models.load import Pair
from opd.models.tokenizers import save_tokenizer
from opd.sampling.vllm.client import VllmClient
from opd.sampling.vllm.weights import remove

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank takes
# Whose linear layers vLLM adapts one by one, under the names that transformers gives them.
ARCHITECTURES = frozenset(
    f"{family}ForCausalLM"
    for family in ("Gemma2", "Gemma3", "Granite", "Llama", "Mistral", "Qwen2", "Qwen3")
)
LINEARS = re.compile(
    r"model\.layers\.\d+\."
    r"(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(gate_proj|up_proj|down_proj))"
)


def refusal(pair: Pair) -> str | None:
    """Why vLLM does not take the student's adapter as it is; None: it does."""
    whole = causal(pair.student)
    if type(whole).__name__ not in ARCHITECTURES:
        return f"it may not know adapters of {type(whole).__name__}"
    config = pair.student.peft_config["default"]
    if highest(config) > RANKS[-1]:
        return f"its rank is {highest(config)}, and {RANKS[-1]} is the highest"
    for name in ("modules_to_save", "use_dora", "lora_bias", "layer_replication"):
        if getattr(config, name, None):
            return f"it has {name}"
    if config.bias != "none":
        return f"it trains biases ({config.bias})"
    for name, module in whole.named_modules():
        plain = isinstance(getattr(module, "base_layer", None), nn.Linear)
        if hasattr(module, "get_delta_weight") and not (plain and LINEARS.fullmatch(name)):
            return f"it adapts {name}"
    return None


def highest(config: Any) -> int:
    """The rank of peft's configuration that a server must hold."""
    return int(max([config.r, *(config.rank_pattern or {}).values()]))


def served_rank(rank: int) -> int:
    """The least --max-lora-rank for an adapter of this rank."""
    return next(r for r in RANKS if r >= rank)


def write_base(pair: Pair, folder: Path) -> None:
    """What lies beneath the adapter, as vLLM loads it."""
    whole = causal(pair.student)
    weights = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in whole.state_dict().items()
        if not any(part.startswith("lora_") for part in name.split("."))
    }
    whole.save_pretrained(folder, state_dict=weights)
    save_tokenizer(pair.tokenizer, folder)


class AdapterFiles:
    """Each time under a new name and in a new folder, which the server sees, too: what it has of an
    earlier adapter in its prefix cache is under that one's. Loaded in place, under the same name,
    vLLM 0.32.0 would read the files again at every token.

    The files stay until the next adapter is there: a server that holds several may read them again.
    """

    def __init__(self, client: VllmClient, scratch: Path, name: str) -> None:
        self._client, self._scratch, self._name = client, scratch, name
        self._updates = 0

    @property
    def model(self) -> str:
        return f"{self._name}-{self._updates}"

    def compared(self, pair: Pair) -> Any:
        return pair.student

    def send(self, pair: Pair) -> None:
        before, folder = self.model, self._folder
        self._updates += 1
        shutil.rmtree(self._folder, ignore_errors=True)
        # Embeddings keep their size, so that peft need not look at (or fetch) the base's.
        pair.student.save_pretrained(self._folder, save_embedding_layers=False)
        if self._updates > 1:
            self._client.tell("/v1/unload_lora_adapter", {"lora_name": before})
            shutil.rmtree(folder, ignore_errors=True)
        self._client.tell(
            "/v1/load_lora_adapter", {"lora_name": self.model, "lora_path": str(self._folder)}
        )

    def check(self) -> None:
        """Nobody else has its names."""

    def close(self) -> None:
        if self._updates:
            self._client.leave("/v1/unload_lora_adapter", {"lora_name": self.model})
        remove(self._scratch, self._folder.name)

    @property
    def _folder(self) -> Path:
        return self._scratch / f"adapter-{self._updates}"
