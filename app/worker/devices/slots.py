"""Device slots: one running run each. Counted without loading torch.

A run of several devices has several, with commas between them.
"""

import os
import platform
import sys
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opd.config.run import RunConfig

APPLE = sys.platform == "darwin" and platform.machine() == "arm64"


def choose(
    device: str, taken: Collection[str], gpus: int, *, count: int = 1, apple: bool = APPLE
) -> str | None:
    """The slot for `count` of a wanted device (`auto`, `cpu`, `mps`, `cuda`, `cuda:1`); None while
    taken. Processes share a processor; where there are fewer GPUs than wanted, all of them, on
    which the run is then refused.
    """
    here = candidates(device, gpus, apple=apple)
    free = [slot for slot in here if slot not in set(each(taken))]
    needed = min(count, len(here))
    return ",".join(free[:needed]) if len(free) >= needed else None


def candidates(device: str, gpus: int, *, apple: bool = APPLE) -> list[str]:
    """The slots that a run with this device may take, the best first.

    gpus: how many this machine has (`opd.devices.gpus.gpu_count`); apple: whether it has Apple's.
    """
    if device == "auto" and not gpus:
        return ["mps" if apple else "cpu"]
    if device in ("auto", "cuda"):
        return [f"cuda:{i}" for i in range(max(gpus, 1))]
    return [device]


def each(taken: Iterable[str]) -> list[str]:
    """Every single slot of those that runs have."""
    return [one for slot in taken for one in slot.split(",")]


def on_slot(config: "RunConfig", slot: str) -> "RunConfig":
    """Points the trainer at a single slot's device; `auto` may still fall back to the processor."""
    if config.device == "auto" and slot.startswith("cuda:"):
        os.environ |= only_visible(int(slot.removeprefix("cuda:")))
        return config
    return config.model_copy(update={"device": slot}) if config.device == "cuda" else config


def only_visible(number: int) -> dict[str, str]:
    """The variable that shows a process no GPU but this one of ours."""
    visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v.strip()]
    return {"CUDA_VISIBLE_DEVICES": visible[number] if visible else str(number)}


def seen_by_torch(config: "RunConfig", slot: str) -> str:
    """The device under its name in this process, where `on_slot` may leave one GPU visible."""
    return "cuda:0" if config.device == "auto" and slot.startswith("cuda:") else config.device
