"""The supervisors of two hosts that share a PostgreSQL server and a folder: every run ends once,
whatever becomes of a host or its network."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.queue import jobs
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
    told = studio.told()
    assert "Traceback" not in told and "ERROR" not in told, told


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
