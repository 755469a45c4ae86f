"""The student's weights on their way to the server, whole, by vLLM's weight transfer for RL.

Source: vLLM 0.32.0, vllm/entrypoints/rl/online/api_router.py; vllm/distributed/weight_transfer.
"""

import shutil
from pathlib import Path
from typing import Any, Protocol

from opd.models.load import Pair
from opd.models.tokenizers import save_tokenizer
from opd.sampling.vllm.client import VllmClient, server_error


class WeightSender(Protocol):
    """A way by which the student as it is now reaches the server."""

    @property
    def model(self) -> str:
        """The name under which the server has it; another one after each update, maybe."""

    def compared(self, pair: Pair) -> Any:
        """What of the trainer's computes what the server does, once it was sent."""

    def send(self, pair: Pair) -> None:
        """Returns once the server writes with these weights, by its own word."""


def model_to_send(pair: Pair) -> Any:
    """What writes in the student's place: in the run's dtype, with the adapter merged.

    Raises UserError where the memory does not allow the copy."""
    if pair.sampling_copy is None:
        return pair.student
    copy = pair.sampling_copy()
    if copy is None:
        raise server_error(
            "weights cannot be sent: there is no memory for a copy of the student in the run's "
            "dtype with its adapter merged; set sampling.engine to local"
        )
    return copy


def write_model(pair: Pair, folder: Path) -> None:
    """The student as it is now, as vLLM loads it."""
    model_to_send(pair).save_pretrained(folder)
    save_tokenizer(pair.tokenizer, folder)


class FullWeights:
    """Each time under a new version. `scratch` is a folder that the server sees, too."""

    def __init__(self, client: VllmClient, scratch: Path, model: str) -> None:
        self.model = model
        self._client, self._scratch = client, scratch
        self._versions = 0

    def compared(self, pair: Pair) -> Any:
        return model_to_send(pair)

    def send(self, pair: Pair) -> None:
        ask = self._client.ask
        folder = self._scratch / "weights"
        shutil.rmtree(folder, ignore_errors=True)
        model_to_send(pair).save_pretrained(folder)
        if not self._versions:
            ask("/init_weight_transfer_engine", {"init_info": {}})
        self._versions += 1
        version = f"update-{self._versions}"
        ask("/pause?mode=wait")
        ask("/start_weight_update")
        ask("/update_weights", {"update_info": {"folder": str(folder)}})
        ask("/finish_weight_update", {"weight_version": version})
        ask("/reset_prefix_cache")  # it holds states of the old weights
        ask("/resume")
        shutil.rmtree(folder, ignore_errors=True)
        answer = ask("/weight_info", method="GET")
        there = answer.get("weight_version") if isinstance(answer, dict) else None
        if there != version:
            raise server_error(f"has weights {there!r} after {version!r} were sent")
