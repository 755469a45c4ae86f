"""A run beside a copy of its directory, and under a supervisor of another host: it is left alone
while it lives, and taken over only once it is lost."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.worker import recovery
from app.worker.owners import place, standing
from app.worker.owners.standing import Judge
from app.worker.recovery import settled
from app.worker.supervisor import Supervisor
from opd.errors import UserError
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.read.runs import read_run
from tests.support.studio import Studio, hold_still

NOTHING = ("false",)  # in place of the job, which no test here starts


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """With a run at its second step or later, whose supervisor has left."""
    monkeypatch.setattr(standing, "LOST_AFTER", 3.0)  # six heartbeats
    monkeypatch.setattr(standing, "CONFIRMED_AFTER", 1.0)
    made = Studio(tmp_path / "data")
    run_id = made.queue("slow", steps=5000)
    first = made.supervisor()
    made.wait_step(run_id, 2)
    first.terminate()
    first.wait()
    yield made
    made.close()


def run_of(studio: Studio) -> str:
    [row] = jobs.running(studio.engine)
    return str(row["id"])


def turns(supervisor: Supervisor, until: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true while the supervisor looked on."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        supervisor.turn()
        if until():
            return True
        time.sleep(0.1)
    return False


def test_a_copy_takes_its_own_row_and_not_the_process(studio: Studio, tmp_path: Path) -> None:
    run_id, pid = run_of(studio), studio.pid(run_of(studio))
    copy = DataDir(tmp_path / "copy")
    subprocess.run(["cp", "-a", studio.data_dir, copy.path], check=True)
    engine = open_database(copy.path)
    jobs.request_cancel(engine, run_id, "save")  # even when it is told to end it
    supervisor = Supervisor(engine, copy, NOTHING)
    assert turns(supervisor, lambda: read_run(engine, run_id)["status"] == "cancelled", 30)
    step = studio.run(run_id)["step"]
    studio.wait_step(run_id, step + 2)
    assert psutil.Process(pid).is_running()
    assert studio.run(run_id)["attempt"] == 1
    engine.dispose()


def test_another_host_leaves_a_living_run_alone(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, pid, data_dir = run_of(studio), studio.pid(run_of(studio)), DataDir(studio.data_dir)
    here = place.host_name()
    monkeypatch.setattr(place, "host_name", lambda: "node-2")
    supervisor = Supervisor(studio.engine, data_dir, NOTHING)
    ended = turns(supervisor, lambda: studio.status(run_id) != "running", 5)
    assert not ended
    recovery.bury_dead(studio.engine, data_dir, Judge(data_dir))
    with pytest.raises(UserError, match=rf"is running \(process {pid} on {here}\)"):
        settled(studio.engine, data_dir, run_id)
    os.kill(pid, signal.SIGKILL)
    assert turns(supervisor, lambda: studio.status(run_id) == "interrupted", 30)
    run = studio.run(run_id)
    assert run["error_kind"] == "lost"
    assert f"process {pid} on {here}" in run["error_text"]


def test_what_was_taken_over_while_it_lived_keeps_its_last_step(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id, pid, data_dir = run_of(studio), studio.pid(run_of(studio)), DataDir(studio.data_dir)
    monkeypatch.setattr(place, "pid_namespace", lambda: "another")
    hold_still(pid, data_dir)
    supervisor = Supervisor(studio.engine, data_dir, NOTHING)
    assert turns(supervisor, lambda: studio.status(run_id) == "interrupted", 30)
    os.kill(pid, signal.SIGCONT)
    aside = data_dir.run(run_id).aside(1)
    studio.wait(lambda: list(aside.glob("step-*")))
    studio.wait(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    [kept] = aside.glob("step-*")
    assert kept.name >= f"step-{studio.run(run_id)['step']:06d}"
    assert studio.status(run_id) == "interrupted"
    assert "kept in" in data_dir.run(run_id).log.read_text()


def test_a_directory_that_is_moved_amid_a_run_ends_it_and_it_goes_on_where_it_lies_now(
    studio: Studio, tmp_path: Path
) -> None:
    run_id, pid = run_of(studio), studio.pid(run_of(studio))
    studio.wait(lambda: studio.run(run_id)["checkpoints"])
    moved = tmp_path / "moved"
    studio.data_dir.rename(moved)
    studio.wait(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")
    assert not studio.data_dir.exists(), "nothing is written to where it lay"
    log = DataDir(moved).run(run_id).log.read_text()
    assert "was moved, deleted or unmounted while it was open" in log
    after = Studio(moved)
    recovery.bury_dead(after.engine, DataDir(moved), Judge(DataDir(moved)))
    assert after.status(run_id) == "interrupted"
    step = after.run(run_id)["checkpoints"][-1]["step"]
    jobs.requeue(after.engine, run_id)
    after.supervisor()
    after.wait(lambda: after.run(run_id)["step"] > step + 1)
    assert after.run(run_id)["attempt"] == 2
    after.close()
