"""Device slots: one running run each. Counted without loading torch."""

import platform
import sys
from collections.abc import Collection

APPLE = sys.platform == "darwin" and platform.machine() == "arm64"


def choose(device: str, taken: Collection[str], gpus: int, *, apple: bool = APPLE) -> str | None:
    """The slot for a wanted device (`auto`, `cpu`, `mps`, `cuda`, `cuda:1`); None while taken."""
    return next((slot for slot in candidates(device, gpus, apple=apple) if slot not in taken), None)


def candidates(device: str, gpus: int, *, apple: bool = APPLE) -> list[str]:
    """The slots that a run with this device may take, the best first.

    gpus: how many this machine has (`opd.devices.gpus.gpu_count`); apple: whether it has Apple's.
    """
    if device == "auto" and not gpus:
        return ["mps" if apple else "cpu"]
    if device in ("auto", "cuda"):
        return [f"cuda:{i}" for i in range(max(gpus, 1))]
    return [device]
