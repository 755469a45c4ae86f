"""The process that waits for a run, and who takes its place when it cannot be had."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from app.worker import standby
from app.worker.standby import Standby, waiting
from storage.data_dir import DataDir
from tests.support.fake_training import SCRIPT
from tests.support.studio import Studio

JOB = (sys.executable, str(SCRIPT), "job")


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "FIRST_AFTER", 0.0)
    monkeypatch.setattr(standby, "LEAST_MEMORY", 0.0)


@pytest.fixture
def kept(tmp_path: Path, at_once: None) -> Iterator[Standby]:
    made = Standby(DataDir(tmp_path), JOB, kept=True)
    yield made
    if (child := made.take("run-none0000", "cpu", tmp_path / "last.log")) is not None:
        child.wait(60)


def test_a_run_is_handed_to_the_process_that_waits(studio: Studio, at_once: None) -> None:
    data_dir = DataDir(studio.data_dir)
    made = Standby(data_dir, JOB, kept=True)
    made.turn()
    studio.wait(lambda: (waiting(data_dir) or {"memory": 0})["memory"] > 10**6)
    process = waiting(data_dir)
    assert process is not None
    run_id = studio.queue()
    child = made.take(run_id, "cpu", data_dir.run(run_id).log)
    assert child is not None and child.pid == process["pid"]
    assert waiting(data_dir) is None
    assert child.wait(60) == 0
    run = studio.run(run_id)
    assert run["status"] == "finished" and run["step"] == 6
    assert "step 6/6" in data_dir.run(run_id).log.read_text()


def test_a_supervisor_starts_a_run_in_it(studio: Studio) -> None:
    data_dir = DataDir(studio.data_dir)
    studio.supervisor(OPD_STANDBY="1")
    until(lambda: waiting(data_dir))
    first = waiting(data_dir)
    assert first is not None
    run_id = studio.queue("slow", steps=400)
    studio.wait_step(run_id)
    assert studio.pid(run_id) == first["pid"]


def test_it_ends_with_its_supervisor(studio: Studio) -> None:
    supervisor = studio.supervisor(OPD_STANDBY="1")
    until(lambda: waiting(DataDir(studio.data_dir)))
    process = waiting(DataDir(studio.data_dir))
    assert process is not None
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    until(lambda: not psutil.pid_exists(process["pid"]))
    assert waiting(DataDir(studio.data_dir)) is None


def test_one_that_has_died_is_not_handed_a_run(kept: Standby, tmp_path: Path) -> None:
    kept.turn()
    pid = json.loads(DataDir(tmp_path).standby_note.read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert kept.take("run-none0000", "cpu", tmp_path / "log") is None


def test_one_with_older_code_is_replaced(
    kept: Standby, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.turn()
    pid = json.loads(DataDir(tmp_path).standby_note.read_text())["pid"]
    newest, files, packages = standby.code_version()
    monkeypatch.setattr(standby, "code_version", lambda: (newest + 1, files, packages))
    assert kept.take("run-none0000", "cpu", tmp_path / "log") is None
    assert not psutil.pid_exists(pid)
    monkeypatch.setattr(standby, "AGAIN_AFTER", 0.0)
    kept._next = 0.0
    kept.turn()
    assert json.loads(DataDir(tmp_path).standby_note.read_text())["pid"] != pid
    monkeypatch.setattr(standby, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(standby, "code_version", lambda: (newest + 2, files, packages))
    old = json.loads(DataDir(tmp_path).standby_note.read_text())["pid"]
    kept.turn()
    assert not psutil.pid_exists(old)


def test_none_is_kept_where_memory_is_short_or_nobody_wants_one(
    tmp_path: Path, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    unwanted = Standby(DataDir(tmp_path), JOB)  # as the environment of these tests says
    unwanted.turn()
    monkeypatch.setattr(standby, "LEAST_MEMORY", 1e18)
    short = Standby(DataDir(tmp_path), JOB, kept=True)
    short.turn()
    assert waiting(DataDir(tmp_path)) is None
    assert unwanted.take("run-none0000", "cpu", tmp_path / "log") is None


def test_code_that_changes_has_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = standby.code_version()
    assert before == standby.code_version()
    installed = tmp_path / "site-packages" / "torch-99.dist-info"
    installed.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(installed.parent))
    assert standby.code_version() != before
