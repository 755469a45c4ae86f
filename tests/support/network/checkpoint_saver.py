"""A process that saves checkpoint after checkpoint as a job does, until it is killed."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from app.worker import job
from app.worker.attempts.checkpoints import start_of, sweep
from app.worker.attempts.progress import JobProgress
from opd.config.run import parse
from opd.training.checkpoint_manifest import STATE, make
from opd.types import CheckpointEvent
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.read.runs import read_run
from storage.write.records import RunWriter

FILES = ("a.safetensors", "b.safetensors", "c.safetensors")
SIZE = 200_000
KEEP = 2


class _Nothing:
    """A training that is never asked for anything."""

    def events(self) -> Any:
        raise NotImplementedError

    save_checkpoint = save_aside = vocabulary = events


def new_run(folder: Path) -> str:
    engine = open_database(folder)
    run_id = jobs.create_run(engine, parse({}))
    engine.dispose()
    return run_id


def main(
    folder: Path,
    files: str,
    run_id: str,
    steps: Any,
    environment: Mapping[str, str],
    count: int = 10**9,
) -> None:
    """Tells each step that is on record, the first as it begins; ends after `count` more."""
    os.environ.update(environment)
    engine, data_dir = open_database(folder), DataDir(folder, files=files)
    with engine.begin() as connection:  # whoever had it was killed
        connection.exec_driver_sql("UPDATE run SET status = 'interrupted'")
    jobs.requeue(engine, run_id)
    here = job.claim(engine, data_dir, run_id, "cpu")
    assert here is not None
    step, _ = start_of(data_dir, read_run(engine, run_id))
    sweep(engine, data_dir, run_id, here.attempt)
    writer = RunWriter(engine, run_id, here.attempt)
    writer.truncate_after(step)
    progress = JobProgress(here, _Nothing(), writer, saved=step)
    steps.send(step)
    kept = [step] if step >= 0 else []
    for number in range(step + 1, step + 1 + count):
        progress.store(_saved(here.checkpoints, number, kept[-1:]))
        progress.settle(wait=True)
        steps.send(number)
        kept = [*kept, number][-KEEP:]
    sweep(engine, data_dir, run_id, here.attempt)


def step_of(folder: Path) -> int:
    """Raises where the files are not all of one step."""
    steps = {json.loads((folder / STATE).read_text())["step"]}
    steps |= {int((folder / name).read_bytes()[:10]) for name in FILES}
    (step,) = steps
    return int(step)


def _saved(checkpoints: Path, step: int, keeps: Sequence[int]) -> CheckpointEvent:
    folder = checkpoints / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        (folder / name).write_bytes(f"{step:010d}".encode() + b"w" * SIZE)
    (folder / STATE).write_text(json.dumps({"step": step}))
    return CheckpointEvent(step, str(folder), make(folder), keeps)
