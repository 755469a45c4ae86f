"""A supervisor that does not stay is given up for a while, with its cause in every place."""

import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Engine

from app.server import ServerOptions, rest_app
from app.worker import watchdog
from app.worker.devices.waiting import why_queued
from app.worker.watchdog import AGAIN_EVERY, ENDS, SETTLED, Watchdog, why_nothing_starts
from opd.config.run import parse
from storage import locks
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.runs import read_run
from tests.support.studio import Studio

STARTED = "open('starts', 'a').write('+')\n"
SAYS_WHY = (
    STARTED + "import os; os.write(2, b'x' * 100_000 + b'\\n'); raise SystemExit('no driver')"
)


class Clock:
    """In place of `time`: seconds that only the test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    made = Clock()
    monkeypatch.setattr(watchdog, "time", made)
    monkeypatch.chdir(tmp_path)
    return made


def made(code: str) -> Watchdog:
    return Watchdog(DataDir(Path()), os.environ, (sys.executable, "-c", code))


def look_after_its_end(dog: Watchdog) -> None:
    assert dog._child is not None
    dog._child.wait(60)
    dog.look()


def starts() -> int:
    return len(Path("starts").read_text())


def test_one_that_ends_thrice_is_given_up_with_its_cause_and_tried_later(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    dog = made(SAYS_WHY)
    for end in range(1, ENDS + 1):
        assert dog.trouble == ""
        look_after_its_end(dog)
        assert starts() >= end
    cause = "the supervisor, which starts runs, ended: no driver (ended with exit code 1)"
    assert dog.trouble == cause and starts() == ENDS
    assert why_nothing_starts(DataDir(Path())) == cause
    [error] = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert cause in error and len(error) < 10_000
    clock.now += AGAIN_EVERY - 1
    dog.look()
    assert dog._child is None
    clock.now += 2
    dog.look()
    look_after_its_end(dog)
    assert starts() == ENDS + 1 and dog._child is None  # nor does it say the same again
    assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
    dog.stop()
    assert why_nothing_starts(DataDir(Path())).endswith("start one with: opd serve")


def test_one_that_stays_has_no_trouble_any_more(clock: Clock) -> None:
    good = "import os, sys, time; os.path.exists('good') and time.sleep(600); sys.exit(3)"
    dog = made(good)
    for _ in range(ENDS):
        look_after_its_end(dog)
    assert dog.trouble.endswith("ended: ended with exit code 3")
    Path("good").touch()
    clock.now += AGAIN_EVERY + 1
    dog.look()
    assert dog.trouble
    clock.now += SETTLED + 1
    dog.look()
    assert dog.trouble == ""
    dog.stop()


def test_ends_that_lie_far_apart_are_no_trouble(clock: Clock) -> None:
    dog = made("raise SystemExit(1)")
    for _ in range(2 * ENDS):
        look_after_its_end(dog)
        clock.now += 31
    assert dog.trouble == ""
    dog.stop()


def test_a_command_that_is_not_there(clock: Clock) -> None:
    dog = Watchdog(DataDir(Path()), os.environ, ("/no/such/python",))
    for _ in range(ENDS):
        dog.look()
    assert dog.trouble.endswith("it cannot be started: No such file or directory")
    dog.stop()


def test_a_log_that_cannot_be_written_is_the_cause(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog, "ENDS", 1)
    (tmp_path / "supervisor.log").mkdir()
    dog = Watchdog(DataDir(tmp_path), os.environ)
    look_after_its_end(dog)
    assert f"ended: {tmp_path / 'supervisor.log'}: Is a directory (" in dog.trouble
    dog.stop()


def test_the_note_of_a_server_that_was_killed_counts_no_more(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    note = {"pid": os.getpid(), "place": watchdog.Place.of(data_dir).text, "trouble": "why"}
    data_dir.supervisor_note.write_text(json.dumps(note))
    assert why_nothing_starts(data_dir) == "why"
    data_dir.supervisor_note.write_text(json.dumps(note | {"pid": 2**22 - 1}))
    assert "opd serve" in why_nothing_starts(data_dir)
    lock = locks.take(data_dir.supervisor_lock)
    assert lock is not None and why_nothing_starts(data_dir) == ""
    lock.close()


def test_what_queued_runs_wait_for(engine: Engine, tmp_path: Path) -> None:
    config = parse({"name": "one", "device": "cpu"})
    alone = jobs.create_run(engine, config)
    runs = [read_run(engine, alone)]
    assert why_queued(engine, runs, "") == {}
    assert why_queued(engine, runs, "no supervisor") == {alone: "no supervisor"}
    me = watchdog.process.this_process(DataDir(tmp_path))
    mine = jobs.create_run(engine, config, waiter=me)
    [reason] = why_queued(engine, [read_run(engine, mine)], "no supervisor").values()
    assert f"process {me.pid}" in reason
    jobs.claim(engine, alone, "cpu", me)
    runs = [read_run(engine, alone), read_run(engine, mine)]
    assert why_queued(engine, runs, "no supervisor") == {mine: f"cpu in use by {alone}"}


def test_the_health_route_has_the_reason(engine: Engine, tmp_path: Path) -> None:
    run_id = jobs.create_run(engine, parse({"name": "one", "device": "cpu"}))
    troubles = ["no driver", ""]
    options = ServerOptions(DataDir(tmp_path), trouble=lambda: troubles[0])
    client = TestClient(rest_app(engine, options))
    health = client.get("/api/v1/health").json()
    assert (health["ok"], health["reason"], health["supervisor"]) == (False, "no driver", False)
    assert client.get(f"/api/v1/runs/{run_id}").json()["waits_because"] == "no driver"
    [listed] = client.get("/api/v1/runs").json()["items"]
    assert listed["waits_because"] == "no driver"
    del troubles[0]
    health = client.get("/api/v1/health").json()
    assert (health["ok"], health["reason"]) == (True, None)


def test_the_commands_say_what_a_queued_run_waits_for(
    studio: Studio, opd: Callable[..., tuple[int, str, str]]
) -> None:
    run_id = studio.queue()
    code, out, err = opd("runs", "--data-dir", str(studio.data_dir))
    assert code == 0 and run_id in out
    assert f"{run_id} waits for: no supervisor is at work" in err
    code, out, _ = opd("show", run_id, "--data-dir", str(studio.data_dir))
    assert code == 0 and "waits for   no supervisor is at work" in out
    code, out, _ = opd("show", run_id, "--json", "--data-dir", str(studio.data_dir))
    assert json.loads(out)["waits_because"].endswith("start one with: opd serve")


def test_a_run_whose_log_cannot_be_opened_fails_and_the_next_starts(studio: Studio) -> None:
    bad, good = studio.queue(), studio.queue()
    DataDir(studio.data_dir).run(bad).log.mkdir(parents=True)
    studio.supervisor()
    studio.wait_status(good, "finished")
    run = studio.run(bad)
    assert run["status"] == "failed" and "log.txt: Is a directory" in run["error_text"]
