"""The student's weights on their way to the server, by vLLM's weight transfer for RL.

Source: vLLM 0.32.0, vllm/entrypoints/rl/online/api_router.py; vllm/distributed/weight_transfer.
"""

import shutil
from pathlib import Path
from typing import Any

from opd.models.load import Pair
from opd.models.tokenizers import save_tokenizer
from opd.sampling.vllm.client import VllmClient, server_error


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


class WeightSender:
    """Sends the pair's student as it is now, each time under a new version."""

    def __init__(self, client: VllmClient, scratch: Path) -> None:
        self._client, self._scratch = client, scratch
        self._versions = 0

    def send(self, pair: Pair) -> None:
        """Returns once the server writes with these weights, by its own word."""
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
