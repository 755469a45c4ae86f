"""The supervisors of two hosts that share a PostgreSQL server and a folder: every run ends once,
whatever becomes of a host, its network or its clock."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.worker.owners.place import host_of
from storage.queue import jobs
from storage.queue.hosts import read_hosts
from storage.read.runs import read_steps
from tests.support.fake_training import ROOT
from tests.support.hosts.clocks import wrong_clock
from tests.support.hosts.network import HostNetwork, host_network
from tests.support.hosts.postgres import SharedPostgres, shared_postgres
from tests.support.hosts.shared_studio import LOST_AFTER, SharedStudio

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostNetwork]:
    with host_network(tmp_path_factory.mktemp("network"), "one", "two") as made:
        yield made


@pytest.fixture(scope="module")
def server(network: HostNetwork) -> Iterator[SharedPostgres]:
    with shared_postgres(network) as made:
        yield made


@pytest.fixture
def studio(tmp_path: Path, network: HostNetwork, server: SharedPostgres) -> Iterator[SharedStudio]:
    for name, host in network.hosts.items():  # with no process of the test before
        host.kill()
        network.start(name)
    made = SharedStudio(tmp_path / "data", network, server)
    yield made
    made.close()


def test_runs_go_to_both_hosts_and_each_is_done_once(studio: SharedStudio) -> None:
    studio.supervise("one")
    studio.supervise("two")
    runs = [studio.queue("slow", steps=12) for _ in range(5)]
    pools: dict[str, str] = {}

    def finished() -> bool:
        pools.update({row["id"]: row["pool"] for row in jobs.running(studio.engine)})
        return {studio.run(run_id)["status"] for run_id in runs} == {"finished"}

    studio.wait(finished)
    assert {*pools.values()} == {host.boot for host in studio.network.hosts.values()}
    for run_id in runs:
        assert studio.run(run_id)["attempt"] == 1
        assert studio.steps_of(run_id) == list(range(1, 13))
    logs = studio.output()
    assert "Traceback" not in logs and "ERROR" not in logs, logs


def test_a_killed_host_loses_its_run_which_goes_on_elsewhere(studio: SharedStudio) -> None:
    studio.supervise("two")
    run_id = studio.queue("slow", steps=60)
    studio.wait_step(run_id, 4)
    studio.supervise("one")
    studio.network["two"].kill()
    studio.wait_status(run_id, "interrupted", seconds=LOST_AFTER * 5)
    ended = studio.run(run_id)
    assert (ended["error_kind"], "on two" in ended["error_text"]) == ("lost", True)
    jobs.requeue(studio.engine, run_id)
    studio.network.start("two")
    studio.wait_status(run_id, "running")
    assert studio.host_of(run_id) == "one"
    studio.supervise("two")
    studio.wait_status(run_id, "finished")
    assert studio.run(run_id)["attempt"] == 2
    assert studio.steps_of(run_id) == list(range(1, 61))


def test_a_run_that_is_cut_off_for_long_is_taken_over_and_never_done_twice(
    studio: SharedStudio,
) -> None:
    studio.supervise("two")
    run_id = studio.queue("slow", steps=300)
    studio.wait_step(run_id, 4)
    studio.supervise("one")
    studio.network.cut("two")
    studio.wait_status(run_id, "interrupted", seconds=LOST_AFTER * 5)
    jobs.requeue(studio.engine, run_id)
    studio.wait_status(run_id, "running")
    assert studio.host_of(run_id) == "one"
    studio.network.mend("two")
    aside = studio.data_dir.run(run_id).aside(1)
    studio.wait(lambda: list(aside.glob("step-*")))
    studio.wait_status(run_id, "finished")
    assert studio.run(run_id)["attempt"] == 2
    assert studio.steps_of(run_id) == list(range(1, 301))
    assert "kept in" in studio.data_dir.run(run_id).log.read_text()


def test_a_short_cut_takes_nothing_from_anybody(studio: SharedStudio) -> None:
    """Shorter than the lease: the run waits for its database, and goes on."""
    studio.supervise("one")
    studio.supervise("two")
    runs = started_on_both(studio, steps=100)
    studio.network.cut("two")
    reached = studio.run(runs["two"])["step"]
    time.sleep(LOST_AFTER / 2)
    stands = studio.run(runs["two"])
    assert stands["status"] == "running" and stands["step"] <= reached + 1  # on its way by then
    studio.network.mend("two")
    for run_id in runs.values():
        studio.wait_status(run_id, "finished")
        assert studio.run(run_id)["attempt"] == 1
        assert studio.steps_of(run_id) == list(range(1, 101))
        assert not studio.data_dir.run(run_id).aside(1).exists()


def test_hosts_whose_clocks_are_an_hour_off_lose_nothing_and_are_named(
    studio: SharedStudio, tmp_path: Path
) -> None:
    """One is ahead, the other behind. Leases and times of records are the database's."""
    before = time.time()
    sleeps = tmp_path / "clock"
    path = f"{sleeps}{os.pathsep}{ROOT}"
    for name, offset in (("one", "+1h"), ("two", "-1h")):
        studio.supervise(name, **wrong_clock(sleeps, offset), PYTHONPATH=path)
    for run_id in started_on_both(studio, steps=50).values():
        assert studio.run(run_id)["seconds"] < 600
        studio.wait_status(run_id, "finished")
        ended = studio.run(run_id)
        columns = read_steps(studio.engine, run_id)["columns"]
        assert (ended["attempt"], columns["step"]) == (1, list(range(1, 51)))
        times = [ended["created_at"], *columns["created_at"], ended["finished_at"]]
        assert times == sorted(times)
        assert before - 1 < times[0] and times[-1] < time.time() + 1
        assert 0 < ended["seconds"] <= times[-1] - times[0]
    assert told_clocks(studio) == pytest.approx({"one": 3600, "two": -3600}, abs=1)
    lines = [line for line in studio.output().splitlines() if "the clock of this host" in line]
    for side in ("ahead of", "behind"):
        [line] = [line for line in lines if side in line]
        assert f"3,600 s {side} the database's: set it" in line


def told_clocks(studio: SharedStudio) -> dict[str, float]:
    """By host, how far its clock is ahead; of those that have told since they were turned on."""
    on = {host.boot for host in studio.network.hosts.values()}
    return {host.name: host.ahead for host in read_hosts(studio.engine) if host.boot in on}


def started_on_both(studio: SharedStudio, *, steps: int) -> dict[str, str]:
    """A slow run on each host, by the host, a few steps on."""
    studio.wait(lambda: len(told_clocks(studio)) == 2)
    runs = [studio.queue("slow", steps=steps) for _ in studio.network.hosts]
    by_host: dict[str, str] = {}

    def started() -> bool:
        by_host.update({host_of(row["owner"]): row["id"] for row in jobs.running(studio.engine)})
        return len(by_host) == 2 and all(studio.run(run_id)["step"] >= 2 for run_id in runs)

    studio.wait(started)
    assert {*by_host.values()} == {*runs}
    return by_host
