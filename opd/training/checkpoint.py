"""Checkpoints: everything a run needs to resume, complete or not there at all.

A folder is written aside, synced and renamed; its manifest maps each file to its SHA-256 (see
`opd.training.checkpoint_manifest`). Sampling and prompts follow from (seed, step), so weights,
optimizer moments, the moving average where there is one, the first answers to the probe prompts,
and the step are all the state.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from opd import files
from opd.models.forward import causal
from opd.teachers.local import MovingAverage
from opd.training import checkpoint_manifest, probes
from opd.types import CheckpointEvent

OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average.safetensors"
STATE = "trainer.json"
NUMBER = ":int"  # ends the name of a plain number among tensors


@dataclass(frozen=True)
class Progress:
    """What is saved beside the models.

    `score` is the held-out one at this step, if any; `owes` that the evaluation which is due after
    it was cut off; `answers` are those to the probe prompts, by the student as it started.
    """

    step: int
    score: float | None = None
    owes: bool = False
    answers: tuple[probes.Answer, ...] = ()


def save(
    folder: Path,
    progress: Progress,
    models: tuple[Any, Any],
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None = None,
) -> CheckpointEvent:
    """Writes `folder/step-…` as one whole; an interrupted earlier try is swept away.

    `models` are the student and its tokenizer.
    """
    final = checkpoint_manifest.folder_of(folder, progress.step)
    files.remove(final)
    student, tokenizer = models
    with files.written_aside(final, folder=True, durable=True) as aside:
        # Embeddings keep their size, so that peft need not look at (or fetch) the base's.
        adapter = {"save_embedding_layers": False} if causal(student) is not student else {}
        student.save_pretrained(aside, safe_serialization=True, **adapter)
        tokenizer.save_pretrained(aside)
        save_file(_flat(optimizer.state_dict()["state"]), aside / OPTIMIZER)
        if average is not None:
            save_file({n: t.contiguous() for n, t in average.weights.items()}, aside / AVERAGE)
        state = asdict(progress)
        (aside / STATE).write_text(json.dumps(state), encoding="utf-8")
        digests = checkpoint_manifest.make(aside)
    return CheckpointEvent(progress.step, str(final), digests)


def restore(
    path: Path, optimizer: torch.optim.Optimizer, average: MovingAverage | None = None
) -> int:
    """Puts moments and average back; returns the step that the checkpoint was taken after."""
    state = _nested(load_file(path / OPTIMIZER))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if average is not None:
        restore_average(path, average)
    return progress_of(path).step


def restore_average(path: Path, average: MovingAverage) -> None:
    """Puts the checkpoint's moving average back."""
    average.restore(load_file(path / AVERAGE))


def progress_of(path: Path) -> Progress:
    """What a checkpoint says of the run. Raises OSError, ValueError, KeyError, TypeError."""
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    answers = probes.stored(state.get("answers", ()))
    return Progress(int(state["step"]), state.get("score"), bool(state.get("owes")), answers)


def saved(folder: Path, *, up_to: int) -> list[Progress]:
    """The checkpoints in a folder, oldest first; a damaged one counts, without a score."""
    steps = sorted(int(p.name.removeprefix("step-")) for p in folder.glob("step-*"))
    return [
        _listed(checkpoint_manifest.folder_of(folder, step), step)
        for step in steps
        if step <= up_to
    ]


def _listed(path: Path, step: int) -> Progress:
    try:
        progress = progress_of(path)
    except (OSError, ValueError, KeyError, TypeError):
        return Progress(step)
    return progress if progress.step == step else Progress(step)


def expendable(progress: list[Progress], *, keep: int, best: bool) -> list[Progress]:
    """Those to remove: all but the newest `keep` and, with `best`, the one of the best score."""
    kept = progress[-keep:]
    scored = [p for p in progress if p.score is not None]
    if best and scored:
        kept = [*kept, max(scored, key=lambda p: (p.score or 0.0, p.step))]
    return [p for p in progress if p not in kept]


def remove(folder: Path, step: int) -> None:
    files.remove(checkpoint_manifest.folder_of(folder, step))


def _flat(node: Mapping[Any, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """Nested states as tensors by path; a plain number is a tensor whose name ends in `:int`."""
    tensors: dict[str, torch.Tensor] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            tensors |= _flat(value, f"{prefix}{key}/")
        elif isinstance(value, int):
            tensors[f"{prefix}{key}{NUMBER}"] = torch.tensor(value)
        else:
            tensors[f"{prefix}{key}"] = value.detach().clone(memory_format=torch.contiguous_format)
    return tensors


def _nested(flat: Mapping[str, torch.Tensor]) -> dict[int, dict[str, Any]]:
    """The inverse of `_flat`, by parameter."""
    states: dict[int, dict[str, Any]] = {}
    for name, tensor in flat.items():
        number, *keys, last = name.split("/")
        node = states.setdefault(int(number), {})
        for key in keys:
            node = node.setdefault(key, {})
        plain = last.removesuffix(NUMBER)
        node[plain] = tensor if plain == last else int(tensor)
    return states
