"""A run that is killed and resumed, beside the same run left alone."""

import math
import multiprocessing
import tempfile
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from bench.gpu.whole_steps import LORA, UnevaluatedTraining
from bench.gpu.workbench import Figures, Work, Workbench
from opd.config.run import RunConfig, parse
from opd.training.checkpoint_manifest import folder_of
from opd.types import CheckpointEvent, StepEvent

STEPS, KILLED_AFTER = 3, 1
WORK = Work(4, 4, 64)
CASES: Mapping[str, tuple[Mapping[str, Any], str]] = {  # of the student, and the file compared
    "all weights": ({}, "model.safetensors"),
    "LoRA": ({"lora": LORA}, "adapter_model.safetensors"),
}


def resume(bench: Workbench) -> Iterator[Figures]:
    """A tiny student and teacher with the whole vocabulary, whose checkpoints are soon written.

    On a processor both runs are the same to the last bit; a card adds in an order of its own.
    """
    tiny, teacher = (bench.model("tiny", seed=seed) for seed in (3, 4))
    for name, (student, weights) in CASES.items():
        config = bench.config(
            Work(2, 2, 6) if bench.small else WORK,
            student={"model": tiny, **student},
            teacher={"model": teacher},
            steps=STEPS,
            checkpoints={"every": 1, "keep": STEPS, "best": False},
        )
        with tempfile.TemporaryDirectory() as folder:
            yield Figures(name, killed_and_left_alone(config, Path(folder), weights))


def killed_and_left_alone(config: RunConfig, folder: Path, weights: str) -> dict[str, Any]:
    """`weights` is the file of a checkpoint that is compared."""
    alone, killed = folder / "alone", folder / "killed"
    whole = _losses(config, alone)
    kill(config, killed)
    resumed = _losses(config, killed, folder_of(killed, KILLED_AFTER))
    if sorted(resumed) != list(range(KILLED_AFTER + 1, STEPS + 1)):
        raise RuntimeError(f"the resumed run made the steps {sorted(resumed)}")
    ends = [load_file(folder_of(f, STEPS) / weights) for f in (alone, killed)]
    gap = max(float((ends[0][n] - ends[1][n]).abs().max()) for n in ends[0])
    return {
        "steps alone": len(whole),
        "steps resumed": len(resumed),
        "largest difference of a loss": max(abs(resumed[s] - whole[s]) for s in resumed),
        "largest difference of a weight": gap,
    }


def kill(config: RunConfig, folder: Path) -> None:
    """SIGKILL for a run in a process of its own, once it has saved a checkpoint and goes on."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run, args=(config.model_dump(), folder, sender))
    child.start()
    sender.close()
    try:
        while receiver.recv() < KILLED_AFTER:
            pass
    finally:
        child.kill()
        child.join()


def _run(config: dict[str, Any], folder: Path, tells: Connection) -> None:
    for event in UnevaluatedTraining(parse(config), folder).events():
        if isinstance(event, CheckpointEvent):
            tells.send(event.step)


def _losses(config: RunConfig, folder: Path, source: Path | None = None) -> dict[int, float]:
    """By step. Raises RuntimeError for one that is no number."""
    events = UnevaluatedTraining(config, folder, resume_from=source).events()
    losses = {e.step: e.metrics["loss"] for e in events if isinstance(e, StepEvent)}
    if not losses or not all(map(math.isfinite, losses.values())):
        raise RuntimeError(f"losses {losses}")
    return losses
