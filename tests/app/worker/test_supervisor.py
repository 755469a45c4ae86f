import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from sqlalchemy import update

from app.worker import process, supervisor
from storage import schema
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_runs, read_steps
from tests.support.studio import FULL, Studio, hold_still


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    """One with a supervisor, for tests that leave it as they found it."""
    made = Studio(tmp_path_factory.mktemp("shared"))
    made.supervisor(HF_TOKEN="hf_abcdefgh")
    yield made
    made.close()


def log_of(studio: Studio, run_id: str) -> str:
    return DataDir(studio.data_dir).run(run_id).log.read_text()


def test_runs_queue_up_on_one_slot(shared: Studio) -> None:
    first, second = shared.queue(), shared.queue()
    shared.wait_status(second, "finished")
    a, b = shared.run(first), shared.run(second)
    assert a["status"] == "finished"
    assert a["finished_at"] <= b["started_at"]
    assert a["step"] == b["step"] == 6
    assert [c["step"] for c in a["checkpoints"]] == [4, 6]
    assert {"python", "torch", "transformers", "peft"} <= set(a["versions"])
    log = log_of(shared, first)
    assert "step 6/6  KL 0.167" in log
    assert "heldout pass@1 0.750 ± 0.100 (n = 4)" in log


def test_fifty_identical_starts_are_one_job(shared: Studio) -> None:
    before = read_runs(shared.engine)["total"]
    with ThreadPoolExecutor(50) as clicks:
        ids = set(clicks.map(lambda _: shared.queue(request_key="the same click"), range(50)))
    [run_id] = ids
    shared.wait_status(run_id, "finished")
    assert read_runs(shared.engine)["total"] == before + 1
    assert shared.run(run_id)["attempt"] == 1


def test_a_killed_job_is_noticed_with_its_cause_and_resumed_from_its_checkpoint(
    shared: Studio,
) -> None:
    for _ in range(200 if FULL else 1):
        run_id = shared.queue("slow", steps=12)
        shared.wait_step(run_id, 3)
        psutil.Process(shared.pid(run_id)).kill()
        shared.wait_status(run_id, "interrupted")
        run = shared.run(run_id)
        assert run["error_kind"] == "killed"
        assert "signal 9 (SIGKILL): the system may have run out of memory" in run["error_text"]
        assert "step" in run["error_text"]  # the log's last line
    jobs.requeue(shared.engine, run_id)
    shared.wait_status(run_id, "finished")
    run, steps = shared.run(run_id), read_steps(shared.engine, run_id)["columns"]
    assert run["attempt"] == 2
    assert steps["step"] == list(range(1, 13))
    assert steps["attempt"][0] == 1 and steps["attempt"][-1] == 2


def test_a_job_outlives_its_supervisor_and_the_next_one_finds_it(studio: Studio) -> None:
    run_id = studio.queue("slow", steps=40)
    for _ in range(200 if FULL else 2):
        first = studio.supervisor()
        studio.wait(lambda: studio.status(run_id) == "running")
        pid = studio.pid(run_id)
        first.kill()
        first.communicate()
        assert studio.pid(run_id) == pid and psutil.pid_exists(pid)
    studio.supervisor()
    studio.wait_step(run_id, studio.run(run_id)["step"] + 2)
    assert studio.pid(run_id) == pid
    psutil.Process(pid).kill()  # nobody's child by now
    studio.wait_status(run_id, "interrupted")
    assert "the job's process is gone" in studio.run(run_id)["error_text"]
    assert studio.run(run_id)["attempt"] == 1


def test_a_second_supervisor_waits_and_both_leave_when_told(studio: Studio) -> None:
    first = studio.supervisor()
    log = studio.data_dir / "supervisor.log"
    run_id = studio.queue()
    studio.wait_status(run_id, "finished")
    second = studio.supervisor()
    studio.wait(lambda: "another supervisor" in log.read_text())
    first.terminate()
    assert first.wait(60) == 0
    run_id = studio.queue()
    studio.wait_status(run_id, "finished")
    second.terminate()
    assert second.wait(60) == 0


def test_a_supervisor_leaves_with_its_parent(studio: Studio) -> None:
    other = studio.start("supervisor", "--parent", "1")  # not its parent, as after a crash
    assert other.wait(300) == 0


@pytest.mark.parametrize("mode", ["save", "discard"])
def test_cancel(shared: Studio, mode: str) -> None:
    run_id, waiting = shared.queue("slow", steps=500), shared.queue()
    shared.wait_step(run_id, 3)
    assert jobs.request_cancel(shared.engine, waiting, "save") == "cancelled"
    assert jobs.request_cancel(shared.engine, run_id, mode) == "running"  # type: ignore[arg-type]
    shared.wait_status(run_id, "cancelled")
    folder = shared.data_dir / "runs" / run_id / "checkpoints"
    run = shared.run(run_id)
    assert f"{run_id} did not stop" not in (shared.data_dir / "supervisor.log").read_text()
    assert "did not stop" not in log_of(shared, run_id)
    assert run["error_text"] == ""
    if mode == "save":
        assert run["checkpoints"][-1]["step"] == run["step"] >= 3
        assert Path(run["checkpoints"][-1]["path"]).is_dir()
    else:
        assert not folder.exists()
    assert shared.status(waiting) == "cancelled"


def test_cancel_of_a_job_that_follows_nothing(shared: Studio) -> None:
    """It is stopped, ignores SIGTERM, and has a child in another session."""
    run_id = shared.queue("deaf")
    shared.wait(lambda: shared.status(run_id) == "running")
    pid = shared.pid(run_id)
    shared.wait(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    [child] = [p for p in psutil.Process(pid).children() if p.is_running()]
    jobs.request_cancel(shared.engine, run_id, "save")
    if not FULL:  # as if 14 s had passed already
        _backdate_cancel(shared, run_id, 14)
    shared.wait_status(run_id, "cancelled")
    assert not process.owner_of(pid)
    assert not process.owner_of(child.pid)


def _backdate_cancel(studio: Studio, run_id: str, seconds: float) -> None:
    with begin(studio.engine) as connection:
        row = update(schema.run).where(schema.run.c.id == run_id)
        connection.execute(row.values(cancel_at=schema.run.c.cancel_at - seconds))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_job_that_is_to_end_saves_first(shared: Studio, number: signal.Signals) -> None:
    run_id = shared.queue("slow", steps=500)
    shared.wait_step(run_id, 3)
    psutil.Process(shared.pid(run_id)).send_signal(number)
    shared.wait_status(run_id, "interrupted")
    assert "did not stop in time" not in log_of(shared, run_id)
    run = shared.run(run_id)
    assert run["error_kind"] == "terminated"
    assert number.name in run["error_text"]
    assert run["checkpoints"][-1]["step"] == run["step"]


def test_sigterm_ends_a_job_that_never_looks_up(shared: Studio) -> None:
    run_id = shared.queue("hangs")
    shared.wait(lambda: shared.run(run_id)["score_start"] is not None)
    psutil.Process(shared.pid(run_id)).send_signal(signal.SIGTERM)
    shared.wait_status(run_id, "interrupted")
    assert "did not stop in time (terminated)" in log_of(shared, run_id)
    assert shared.run(run_id)["error_kind"] == "terminated"


def test_failures_are_named(shared: Studio) -> None:
    expected = {
        "memory": ("out of memory", "MemoryError"),
        "torch memory": ("out of memory", "can't allocate memory"),
        "nan": ("nan loss", "not finite at step 3"),
        "no model": ("missing model", "student.model: no such model folder: /x"),
        "bug": ("error", "KeyError: 'secret <HF_TOKEN>'"),
        "exits": ("error", "ended with exit code 7"),
    }
    ids = {name: shared.queue(name, device=f"cuda:{i}") for i, name in enumerate(expected)}
    for name, (kind, text) in expected.items():
        shared.wait_status(ids[name], "failed")
        run = shared.run(ids[name])
        assert run["error_kind"] == kind
        assert text in run["error_text"]
        assert run["hint"]
        log = log_of(shared, ids[name])
        assert ("Traceback" in log) == (name != "exits")
        assert "hf_abcdefgh" not in log + run["error_text"]


def test_a_full_disk_is_named_and_the_rest_stays_readable(studio: Studio) -> None:
    pages = sum(p.stat().st_size for p in studio.data_dir.glob("studio.db*")) // 4096 + 20
    studio.supervisor(FAKE_MAX_PAGES=str(pages))
    run_id = studio.queue("fast", steps=2000)
    studio.wait_step(run_id)
    studio.wait_status(run_id, "failed")
    run = studio.run(run_id)
    assert run["error_kind"] == "disk full"
    assert "Free space" in run["hint"]
    assert read_rollouts(studio.engine, run_id)["total"] == run["step"] > 0
    assert run["finished_at"] >= run["started_at"]


def test_a_job_that_somebody_stopped_is_waited_for(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "HUNG_AFTER", 0.5)
    run_id = studio.queue("slow", steps=20)
    job = studio.start("job", run_id)
    studio.wait_step(run_id)
    hold_still(job.pid, DataDir(studio.data_dir))
    looking = supervisor.Supervisor(studio.engine, DataDir(studio.data_dir))
    end = time.monotonic() + 2
    studio.wait(lambda: looking.turn() or time.monotonic() > end)
    assert studio.status(run_id) == "running"
    phase = studio.run(run_id)["phase"]
    assert phase == f"stopped by a signal; to go on: kill -CONT {job.pid}"
    monkeypatch.setattr(supervisor, "HUNG_AFTER", 60.0)
    os.kill(job.pid, signal.SIGCONT)
    studio.wait(lambda: looking.turn() or studio.status(run_id) == "finished")
    assert studio.run(run_id)["attempt"] == 1


def test_a_hung_job_is_ended(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "HUNG_AFTER", 1.0)
    run_id = studio.queue("holds the interpreter")
    job = studio.start("job", run_id)
    studio.wait(lambda: studio.run(run_id)["score_start"] is not None)
    looking = supervisor.Supervisor(studio.engine, DataDir(studio.data_dir))
    studio.wait(lambda: looking.turn() or studio.status(run_id) == "interrupted")
    assert studio.run(run_id)["error_kind"] == "hung"
    assert job.wait(60) == -signal.SIGKILL
