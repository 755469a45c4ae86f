"""Runs on tiny models through the real job, in the test's own process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.worker import job, process
from app.worker.logs import start_log
from opd.config.run import parse
from opd.training.trainer import Training
from opd.types import Event
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.runs import read_run
from tests.support.databases.matrix import new_database
from tests.support.devices.tested import DEVICE, SLOT


class Died(Exception):
    """Stands for whatever ends a job."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


class JobRunner:
    """A data directory, and jobs that run in this process one attempt at a time.

    engine, files: of a host that shares the database of another, and an address for files."""

    def __init__(
        self, data_dir: Path, inputs: Path, engine: Engine | None = None, files: str | None = None
    ) -> None:
        self.data_dir, self.inputs = data_dir, inputs
        self.engine = new_database(data_dir) if engine is None else engine
        self.directory = DataDir(data_dir, files=files)

    def queue(self, **changes: Any) -> str:
        student = {"model": str(self.inputs / "student")} | changes.pop("student", {})
        config = {
            "student": student,
            "teacher": str(self.inputs / "teacher"),
            "prompts": str(self.inputs / "prompts.jsonl"),
            "steps": 4,
            "device": str(DEVICE),
            "threads": 1,
            "sampling": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 6},
            "evaluation": {"prompts": 2, "keep": 1},
            "checkpoints": {"every": 1},
            "optimizer": {"learning_rate": 1e-2, "micro_batch_tokens": 256},
            **changes,
        }
        return jobs.create_run(self.engine, parse(config))

    def attempt(self, run_id: str, training: Any = None) -> dict[str, Any]:
        """Runs the next attempt to its end; the run's row."""
        if self.run(run_id)["status"] in jobs.RESUMABLE:
            jobs.requeue(self.engine, run_id)
        return self.attempt_queued(run_id, training)

    def attempt_queued(self, run_id: str, training: Any = None) -> dict[str, Any]:
        start_log(self.directory.run(run_id).log)
        claimed = job.claim(self.engine, self.directory, run_id, SLOT)
        assert claimed is not None
        os.environ.pop(process.MARK)
        job.run(claimed, training)
        return self.run(run_id)

    def run(self, run_id: str) -> dict[str, Any]:
        return read_run(self.engine, run_id)

    def log(self, run_id: str) -> str:
        return DataDir(self.data_dir).run(run_id).log.read_text()

    def folder(self, run_id: str) -> Path:
        return DataDir(self.data_dir).run(run_id).checkpoints

    def at_rest(self, run_id: str) -> list[int]:
        """The steps of the checkpoints on record, which must be those on the disk."""
        steps = [c["step"] for c in self.run(run_id)["checkpoints"]]
        assert sorted(p.name for p in self.folder(run_id).glob("*")) == [
            f"step-{step:06d}" for step in steps
        ]
        return steps


def dying(when: Callable[[Event], bool]) -> type[Training]:
    """A training that dies right after an event was stored."""

    class Dying(Training):
        def events(self):
            for event in super().events():
                yield event
                if when(event):
                    raise Died

    return Dying
