"""Checkpoints: everything a run needs to go on, complete or not there at all.

A folder is written aside, synced and renamed; its manifest maps each file to its SHA-256. Sampling
and prompts follow from (seed, step), so weights, optimizer moments and the step are all the state.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from opd.types import CheckpointEvent, UserError

OPTIMIZER = "optimizer.safetensors"
STATE = "trainer.json"


def save(
    folder: Path, *, step: int, model: Any, tokenizer: Any, optimizer: torch.optim.Optimizer
) -> CheckpointEvent:
    """Writes `folder/step-…` as one whole; an interrupted earlier try is swept away."""
    final = folder / f"step-{step:06d}"
    aside = folder / f".{final.name}.partial"
    for leftover in (aside, final):
        shutil.rmtree(leftover, ignore_errors=True)
    aside.mkdir(parents=True)
    model.save_pretrained(aside, safe_serialization=True)
    tokenizer.save_pretrained(aside)
    save_file(_flat(optimizer), aside / OPTIMIZER)
    (aside / STATE).write_text(json.dumps({"step": step}), encoding="utf-8")
    files = sorted(p for p in aside.rglob("*") if p.is_file())
    manifest = {}
    for path in files:
        manifest[str(path.relative_to(aside))] = _sha256(path)
        _sync(path)
    _sync(aside)
    aside.rename(final)
    _sync(folder)
    return CheckpointEvent(step, str(final), manifest)


def verify(path: Path, manifest: Mapping[str, str]) -> None:
    """Raises UserError naming the file that is missing or differs from the manifest."""
    for name, digest in manifest.items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file} is missing", where="checkpoint", kind="damaged checkpoint")
        if _sha256(file) != digest:
            raise UserError(
                f"{file} was changed since it was saved",
                where="checkpoint",
                kind="damaged checkpoint",
            )


def restore_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> int:
    """Puts the saved moments back; returns the step that the checkpoint was taken after."""
    flat = load_file(path / OPTIMIZER)
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in flat.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    return int(json.loads((path / STATE).read_text(encoding="utf-8"))["step"])


def saved_steps(folder: Path, *, up_to: int) -> list[int]:
    """Steps of the checkpoints in a folder, oldest first."""
    found = sorted(int(p.name.removeprefix("step-")) for p in folder.glob("step-*"))
    return [step for step in found if step <= up_to]


def remove(folder: Path, step: int) -> None:
    shutil.rmtree(folder / f"step-{step:06d}", ignore_errors=True)


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {
        f"{number}.{key}": tensor.contiguous()
        for number, moments in state.items()
        for key, tensor in moments.items()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
