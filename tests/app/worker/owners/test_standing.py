"""Living, doubtful, gone or lost: by the process here, by the heartbeat anywhere else."""

import dataclasses
from pathlib import Path

import pytest

from app.worker.owners import standing
from app.worker.owners.standing import CONFIRMED_AFTER, LOST_AFTER, Beat, Judge
from app.worker.process import this_process
from storage.data_dir import DataDir
from storage.queue.jobs import Owner


class Clock:
    """In place of `time`: seconds that only the test lets pass."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(standing, "time", made)
    return made


def elsewhere(folder: Path) -> Owner:
    return dataclasses.replace(this_process(DataDir(folder)), place="other 1 2")


def test_an_owner_of_this_place_is_judged_by_its_process(tmp_path: Path) -> None:
    me, judge = this_process(DataDir(tmp_path)), Judge(DataDir(tmp_path))
    assert judge.standing("run", me, Beat(1.0, 1e6)) == "living"
    reused = dataclasses.replace(me, started=me.started - 5)
    assert judge.standing("run", reused, Beat(1.0, 0.0)) == "gone"


def test_another_is_lost_when_its_heartbeat_stands_still(tmp_path: Path, clock: Clock) -> None:
    judge, owner = Judge(DataDir(tmp_path)), elsewhere(tmp_path)
    assert judge.standing("run", owner, Beat(5.0, 1.0)) == "living"
    clock.now += LOST_AFTER - 1
    assert judge.standing("run", owner, Beat(5.0, LOST_AFTER)) == "living"
    clock.now += 2
    assert judge.standing("run", owner, Beat(5.0, -3600.0)) == "lost"  # though its clock is ahead


def test_an_old_heartbeat_is_watched_before_it_counts(tmp_path: Path, clock: Clock) -> None:
    judge, owner = Judge(DataDir(tmp_path)), elsewhere(tmp_path)
    assert judge.standing("run", owner, Beat(5.0, 3600.0)) == "doubtful"
    clock.now += CONFIRMED_AFTER + 1
    assert judge.standing("run", owner, Beat(5.0, 3611.0)) == "lost"


def test_one_that_moves_lives_however_old_it_looks(tmp_path: Path, clock: Clock) -> None:
    judge, owner = Judge(DataDir(tmp_path)), elsewhere(tmp_path)
    assert judge.standing("run", owner, Beat(5.0, 3600.0)) == "doubtful"
    clock.now += 2
    assert judge.standing("run", owner, Beat(7.0, 3600.0)) == "living"
    clock.now += CONFIRMED_AFTER + 1
    assert judge.standing("run", owner, Beat(7.0, 3611.0)) == "living"
    clock.now += LOST_AFTER
    assert judge.standing("run", owner, Beat(7.0, 3700.0)) == "lost"


def test_without_any_heartbeat_it_is_watched_too(tmp_path: Path, clock: Clock) -> None:
    judge, owner = Judge(DataDir(tmp_path)), elsewhere(tmp_path)
    assert judge.standing("run", owner, Beat(None, None)) == "doubtful"
    clock.now += CONFIRMED_AFTER + 1
    assert judge.standing("run", owner, Beat(None, None)) == "lost"


def test_after_a_sleep_of_the_machine_time_starts_afresh(tmp_path: Path, clock: Clock) -> None:
    judge, owner = Judge(DataDir(tmp_path)), elsewhere(tmp_path)
    judge.standing("run", owner, Beat(5.0, 1.0))
    clock.now += LOST_AFTER + 1
    judge.forget()
    assert judge.standing("run", owner, Beat(5.0, 1.0)) == "living"
