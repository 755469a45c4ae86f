"""Device slots: one running run each. Counted without loading torch."""

import os
import re
from collections.abc import Collection
from pathlib import Path


def gpu_count() -> int:
    """GPUs this machine shows, or those that CUDA_VISIBLE_DEVICES leaves visible."""
    present = sum(bool(re.fullmatch(r"nvidia\d+", p.name)) for p in Path("/dev").glob("nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    names = [name.strip() for name in visible.split(",")]
    chosen = names[: names.index("-1")] if "-1" in names else names
    return min(present, sum(bool(name) for name in chosen))


def choose(device: str, taken: Collection[str], gpus: int) -> str | None:
    """The slot for a wanted device (`auto`, `cpu`, `cuda`, `cuda:1`); None while it is taken."""
    if device == "cpu" or (device == "auto" and not gpus):
        candidates = ["cpu"]
    elif device in ("auto", "cuda"):
        candidates = [f"cuda:{i}" for i in range(max(gpus, 1))]
    else:
        candidates = [device]
    return next((slot for slot in candidates if slot not in taken), None)
