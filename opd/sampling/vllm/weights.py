"""The student's weights on their way to the server, whole, by vLLM's weight transfer for RL.

Source: vLLM 0.32.0, vllm/entrypoints/rl/online/api_router.py; vllm/distributed/weight_transfer.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from opd.models.load import Pair
from opd.models.tokenizers import save_tokenizer
from opd.sampling.vllm.address import server_error
from opd.sampling.vllm.client import VllmClient

ENDED = "-ended"  # in the version of weights that no run needs any more


class WeightSender(Protocol):
    """A way by which the student as it is now reaches the server."""

    @property
    def model(self) -> str:
        """The name under which the server has it; another one after each update, maybe."""

    def compared(self, pair: Pair) -> Any:
        """What of the trainer's computes what the server does, once it was sent."""

    def send(self, pair: Pair) -> None:
        """Returns once the server writes with these weights, by its own word."""

    def check(self) -> None:
        """Raises UserError where it has others by now."""

    def close(self) -> None:
        """Leaves nothing of the run at the server that others would meet."""


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
    """Each time under a new version of a `name`. `scratch` is a folder that the server sees, too;
    `model` is what the server calls its base model."""

    def __init__(self, client: VllmClient, scratch: Path, model: str, name: str) -> None:
        self.model = model
        self._client, self._scratch, self._name = client, scratch, name
        self._updates = 0

    def compared(self, pair: Pair) -> Any:
        return model_to_send(pair)

    def send(self, pair: Pair) -> None:
        ask = self._client.ask
        folder = self._scratch / "weights"
        shutil.rmtree(folder, ignore_errors=True)
        model_to_send(pair).save_pretrained(folder)
        if not self._updates:
            ask("/init_weight_transfer_engine", {"init_info": {}})
        self._updates += 1
        ask("/pause?mode=wait")  # and it stays so where this fails: nobody gets half new weights
        ask("/start_weight_update")
        ask("/update_weights", {"update_info": {"folder": str(folder)}})
        ask("/finish_weight_update", {"weight_version": self._version})
        ask("/reset_prefix_cache")  # it holds states of the old weights
        ask("/resume")
        shutil.rmtree(folder, ignore_errors=True)
        self.check()

    def check(self) -> None:
        if not self._updates:
            return
        there = version_of(self._client.ask("/weight_info", method="GET"))
        if there != self._version:
            raise server_error(
                f"has weights {there!r} after {self._version!r} were sent; does another run send "
                "its own to it?"
            )

    def close(self) -> None:
        if self._updates:
            ended = f"{self._name}{ENDED}"
            self._client.leave("/update_weight_version", {"new_version": ended})
        remove(self._scratch, "weights")

    @property
    def _version(self) -> str:
        return f"{self._name}-{self._updates}"


def remove(scratch: Path, folder: str) -> None:
    """The folder within, and `scratch` where nothing else is in it."""
    shutil.rmtree(scratch / folder, ignore_errors=True)
    with suppress(OSError):
        scratch.rmdir()


def version_of(answer: Any) -> Any:
    return answer.get("weight_version") if isinstance(answer, dict) else None
