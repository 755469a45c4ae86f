"""Checkpoints: everything a run needs to resume, complete or not there at all.

A folder is written aside, synced and renamed; its manifest maps each file to its SHA-256 (see
`opd.training.checkpoint_manifest`). Sampling and prompts follow from (seed, step), so weights,
optimizer moments, the moving average where there is one, the first answers to the probe prompts,
and the step are all the state.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from opd import files
from opd.config.model_files.weights import ADAPTER, read_object
from opd.config.models import StudentConfig
from opd.errors import ErrorKind, UserError
from opd.models.forward import causal
from opd.models.tokenizers import save_tokenizer
from opd.teachers.local import MovingAverage
from opd.training import checkpoint_manifest
from opd.training.checkpoint_manifest import AVERAGE, OPTIMIZER, STATE
from opd.training.held_out import probes
from opd.types import CheckpointEvent

if TYPE_CHECKING:
    from opd.ranks.sharding import Shards, Whole

CONFIG = "config.json"
MOMENTS = ("exp_avg", "exp_avg_sq", "state1", "state2")  # of their parameter's shape
SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size")
# What an expert's matrices are called apart and fused, and its router: peft renames them.
EXPERT_NAMES = frozenset(
    ("w1", "w2", "w3", "gate_proj", "up_proj", "down_proj", "gate_up_proj", "gate", "gate.weight")
)
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
    held: "torch.optim.Optimizer | Whole",
    average: MovingAverage | None = None,
) -> CheckpointEvent:
    """Writes `folder/step-…` as one whole; an interrupted earlier try is swept away.

    Raises OSError, also where the run's folder, which holds `folder`, is not there (any longer).
    `models` are the student and its tokenizer; what is `held` beside is the optimizer, or where
    several processes hold parts of the student, its weights and moments put together.
    """
    final = checkpoint_manifest.folder_of(folder, progress.step)
    files.remove(final)
    folder.mkdir(exist_ok=True)
    student, tokenizer = models
    with files.written_aside(final, folder=True, durable=True) as aside:
        # Embeddings keep their size, so that peft need not look at (or fetch) the base's.
        adapter = {"save_embedding_layers": False} if causal(student) is not student else {}
        if isinstance(held, torch.optim.Optimizer):
            weights, moments = {}, held.state_dict()["state"]
        else:
            weights, moments = {"state_dict": held.weights}, held.moments
        student.save_pretrained(aside, safe_serialization=True, **adapter, **weights)
        save_tokenizer(tokenizer, aside)
        save_file(_flat(moments), aside / OPTIMIZER)
        if average is not None:
            save_file({n: t.contiguous() for n, t in average.weights.items()}, aside / AVERAGE)
        state = asdict(progress)
        (aside / STATE).write_text(json.dumps(state), encoding="utf-8")
        digests = checkpoint_manifest.make(aside)
    return CheckpointEvent(progress.step, str(final), digests)


def check_student(path: Path, student: StudentConfig, model: Path) -> None:
    """Raises UserError, at the field, where a checkpoint is of another student than configured.

    `model` is the student's folder, which may have become another model since the run started.
    """
    adapter, kept = _settings(path / ADAPTER), _settings(path / CONFIG)
    if student.lora is not None and not adapter:
        raise _other_student("student.lora", "set", "all weights", path)
    if student.lora is not None:
        lora = student.lora
        expected: dict[str, tuple[str, Any]] = {
            "rank": ("r", lora.rank),
            "alpha": ("lora_alpha", lora.alpha),
        }
        for field, (key, value) in expected.items():
            if adapter.get(key) != value:
                raise _other_student(f"student.lora.{field}", value, adapter.get(key), path)
        _check_targets(lora.targets, adapter, path)
    elif adapter:
        raise _other_student("student.lora", "null", "an adapter", path)
    else:
        now = _settings(model / CONFIG)
        for key in SHAPE:
            if key in now and key in kept and now[key] != kept[key]:
                raise _other_student("student.model", f"{key} {now[key]}", kept[key], path)


def _check_targets(targets: str | Sequence[str], adapter: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for other names than those that the checkpoint's adapter is on."""
    modules, tensors = adapter.get("target_modules"), adapter.get("target_parameters") or []
    if isinstance(targets, str) or not isinstance(modules, list):
        return
    trained = sorted({*modules, *tensors})
    fused = EXPERT_NAMES if tensors else frozenset()  # peft puts one name for the other
    if {*targets} - fused != {*trained} - fused:
        raise _other_student("student.lora.targets", sorted(targets), trained, path)


def _settings(path: Path) -> dict[str, Any]:
    return read_object(path, where="checkpoint") if path.is_file() else {}


def _other_student(field: str, configured: object, trained: object, path: Path) -> UserError:
    return UserError(
        f"is {configured}, but the checkpoint {path.name} was trained with {trained}; set it back, "
        "or start a new run",
        where=field,
        kind=ErrorKind.BAD_CONFIGURATION,
    )


def restore(
    path: Path,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None = None,
    shards: "Shards | None" = None,
) -> int:
    """Puts moments and average back; returns the step that the checkpoint was taken after."""
    state = _nested(load_file(path / OPTIMIZER))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = shards.whole_shapes(parameters) if shards else [p.shape for p in parameters]
    _check_moments(state, shapes, path)
    if shards:
        state = {number: shards.parted(parameters[number], s) for number, s in state.items()}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    if average is not None:
        restore_average(path, average)
    return progress_of(path).step


def _check_moments(
    state: Mapping[int, Mapping[str, Any]], shapes: Sequence[torch.Size], path: Path
) -> None:
    """Raises UserError for moments that are not those of parameters of these shapes."""
    fitting = state.keys() <= set(range(len(shapes))) and all(
        moments[name].shape == shapes[number]
        for number, moments in state.items()
        for name in MOMENTS
        if name in moments
    )
    if not fitting:
        raise UserError(
            f"{path / OPTIMIZER} holds moments of other parameters than the student's "
            f"{len(shapes)} tensors; restore the student and its settings as they were, or "
            "start a new run",
            where="checkpoint",
            kind=ErrorKind.BAD_CONFIGURATION,
        )


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
