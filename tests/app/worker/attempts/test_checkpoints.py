"""From which checkpoint an attempt goes on, and which folders are removed."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from app.worker.attempts.checkpoints import discard_checkpoints, start_of, sweep
from opd.config.run import parse
from opd.types import CheckpointEvent
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.queue.jobs import Owner
from storage.read.runs import read_run
from storage.write.records import RunWriter
from tests.support.databases.matrix import new_database


class Saved:
    """A run that has saved at steps 2 and 4."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = DataDir(folder)
        self.engine = new_database(folder)
        self.run_id = jobs.create_run(self.engine, parse({}))
        attempt = jobs.claim(self.engine, self.run_id, "cpu", Owner(1, 1.0, "here"))
        assert attempt == 1
        writer = RunWriter(self.engine, self.run_id, attempt)
        for step, keeps in ((2, []), (4, [2])):
            writer.checkpoint(self._save(step, keeps))

    @property
    def checkpoints(self) -> Path:
        return self.data_dir.run(self.run_id).checkpoints

    @property
    def folders(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.glob("*"))

    def info(self) -> dict[str, Any]:
        return read_run(self.engine, self.run_id)

    def _save(self, step: int, keeps: list[int]) -> CheckpointEvent:
        path = self.checkpoints / f"step-{step:06d}"
        path.mkdir(parents=True)
        content = f"weights of {step}".encode()
        (path / "weights").write_bytes(content)
        manifest = {"weights": hashlib.sha256(content).hexdigest()}
        return CheckpointEvent(step, str(path), manifest, keeps)


@pytest.fixture
def saved(tmp_path: Path) -> Saved:
    return Saved(tmp_path / "data")


def test_the_newest_that_is_whole_is_the_start(saved: Saved) -> None:
    assert start_of(saved.data_dir, saved.info()) == (4, saved.checkpoints / "step-000004")
    (saved.checkpoints / "step-000004" / "weights").write_bytes(b"weights of 5")
    assert start_of(saved.data_dir, saved.info()) == (2, saved.checkpoints / "step-000002")
    (saved.checkpoints / "step-000002" / "weights").unlink()
    assert start_of(saved.data_dir, saved.info()) == (-1, None)


def test_they_are_found_where_the_data_directory_was_moved_to(saved: Saved, tmp_path: Path) -> None:
    moved = DataDir(saved.data_dir.path.rename(tmp_path / "moved"))
    checkpoints = moved.run(saved.run_id).checkpoints
    assert start_of(moved, saved.info()) == (4, checkpoints / "step-000004")


def test_only_what_is_on_record_stays(saved: Saved) -> None:
    for name in ("step-000001", ".step-000006.partial"):
        (saved.checkpoints / name).mkdir()
    before = saved.folders
    sweep(saved.engine, saved.data_dir, saved.run_id, 2)  # of an attempt that is not the run's
    assert saved.folders == before
    sweep(saved.engine, saved.data_dir, saved.run_id, 1)
    assert saved.folders == ["step-000002", "step-000004"]


def test_all_are_discarded_with_their_records(saved: Saved) -> None:
    discard_checkpoints(saved.engine, saved.data_dir, saved.run_id)
    assert (saved.folders, saved.info()["checkpoints"]) == ([], [])
