"""Checkpoints on their way to a store, while the training goes on."""

import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.worker import job
from app.worker.attempts import progress as module
from app.worker.attempts.progress import JobProgress
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from opd.types import CheckpointEvent, PhaseEvent
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.runs import read_run
from storage.write.records import RunWriter


class _Store:
    """Files whose uploads end when the test says so."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, Future[str]]] = []
        self.pruned: list[list[int]] = []

    def keep(self, run_id: str, attempt: int, saved: CheckpointEvent) -> "Future[str]":
        future: Future[str] = Future()
        self.sent.append((saved.step, future))
        return future

    def prune(self, run_id: str, recorded: list[dict[str, Any]], attempt: int) -> None:
        self.pruned.append([c["step"] for c in recorded])

    def has(self, saved: dict[str, Any]) -> bool:
        return "://" in saved["path"]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> _Store:
    made = _Store()
    monkeypatch.setattr(module, "run_files", lambda _: made)
    return made


@pytest.fixture
def going(engine: Engine, tmp_path: Path, store: _Store) -> JobProgress:
    run_id = jobs.create_run(engine, parse({}))
    here = job.claim(engine, DataDir(tmp_path), run_id, "cpu")
    assert here is not None
    training: Any = None
    return JobProgress(here, training, RunWriter(engine, run_id, here.attempt))


def recorded(going: JobProgress) -> dict[int, str]:
    rows = read_run(going.at.engine, going.at.run_id)["checkpoints"]
    return {row["step"]: row["path"] for row in rows}


def test_it_is_on_record_once_it_has_arrived(going: JobProgress, store: _Store) -> None:
    going.store(CheckpointEvent(1, "/here/1", {"model": "0"}))
    going.store(PhaseEvent("step 2"))
    assert recorded(going) == {} and going.saved == 1
    store.sent[0][1].set_result("s3://studio/1")
    going.store(PhaseEvent("step 3"))
    assert recorded(going) == {1: "s3://studio/1"} and store.pruned == [[1]]


def test_the_next_one_waits_for_it(going: JobProgress, store: _Store) -> None:
    going.store(CheckpointEvent(1, "/here/1", {}))
    store.sent[0][1].set_result("s3://studio/1")
    going.store(CheckpointEvent(2, "/here/2", {}, keeps=[1]))
    assert recorded(going) == {1: "s3://studio/1"}
    store.sent[1][1].set_result("s3://studio/2")
    going.settle(wait=True)
    assert list(recorded(going)) == [1, 2]


def test_one_that_does_not_arrive_stays_on_record_here(going: JobProgress, store: _Store) -> None:
    going.store(CheckpointEvent(1, "/here/1", {}))
    store.sent[0][1].set_exception(UserError("is full", kind=ErrorKind.FILES))
    with pytest.raises(UserError, match="is full"):
        going.store(PhaseEvent("step 2"))
    assert recorded(going) == {1: "/here/1"}
    going.store(CheckpointEvent(2, "/here/2", {}, keeps=[1]))  # of what it had reached
    assert list(recorded(going).values()) == ["/here/1", "/here/2"] and len(store.sent) == 1


def test_what_breaks_a_training_off_waits_for_it(going: JobProgress, store: _Store) -> None:
    with pytest.raises(ZeroDivisionError), going:
        going.store(CheckpointEvent(1, "/here/1", {}))
        store.sent[0][1].set_result("s3://studio/1")
        raise ZeroDivisionError
    assert recorded(going) == {1: "s3://studio/1"}


def test_a_job_that_must_end_leaves_it_as_one_of_this_host(
    going: JobProgress, store: _Store
) -> None:
    going.store(CheckpointEvent(1, "/here/1", {}))
    going.record_as_it_is()
    assert recorded(going) == {1: "/here/1"}
    going.record_as_it_is()


def test_an_attempt_sends_what_others_lack_of_its_start(going: JobProgress, store: _Store) -> None:
    going.saved = 4
    rows = [
        {"step": 2, "path": "s3://studio/2", "manifest": {}},
        {"step": 4, "path": "/here/4", "manifest": {"model": "0"}},
    ]
    going.begin(rows[:1], Path("/here/2"))
    going.begin(rows, None)
    assert store.sent == []
    going.begin(rows, Path("/here/4"))
    assert [step for step, _ in store.sent] == [4]
    store.sent[0][1].set_result("s3://studio/4")
    going.settle()
    assert recorded(going) == {4: "s3://studio/4"}


def test_a_file_after_the_other_while_the_training_goes_on(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "team").mkdir()
    run_id = jobs.create_run(engine, parse({}))
    data_dir = DataDir(tmp_path / "data", files=f"file://{tmp_path}/team")
    here = job.claim(engine, data_dir, run_id, "cpu")
    assert here is not None
    training: Any = None
    going = JobProgress(here, training, RunWriter(engine, run_id, here.attempt))
    sends, sent = threading.Event(), threading.Event()

    def put(*_: object) -> None:
        sends.wait(30)
        sent.set()

    monkeypatch.setattr("app.worker.run_files.address.FilesAddress.put", put)
    monkeypatch.setattr("app.worker.run_files.address.FilesAddress.sizes", lambda *_: {"model": 1})
    (tmp_path / "model").write_text("m")
    going.store(CheckpointEvent(1, str(tmp_path), {"model": "0"}))
    assert not sent.is_set() and recorded(going) == {}
    sends.set()
    going.settle(wait=True)
    assert list(recorded(going)) == [1]
