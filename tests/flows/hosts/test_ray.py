"""Runs on a real Ray of two nodes, hosts of their own that share PostgreSQL and a folder."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.worker.devices.waiting import why_queued
from app.worker.launchers.launcher import VARIABLE, JobNeeds
from app.worker.launchers.output import log_of
from app.worker.launchers.ray import Ray
from app.worker.owners.place import host_of
from app.worker.process import program
from opd.network import client
from storage.queue import jobs, placing
from tests.support.hosts.launcher_contract import SAYS, LauncherContract
from tests.support.hosts.network import HostNetwork, host_network
from tests.support.hosts.postgres import PASSWORD, SharedPostgres, shared_postgres
from tests.support.hosts.ray_nodes import NOTICES_SOON, RayCluster, ray_cluster
from tests.support.hosts.shared_studio import FAKE, SharedStudio

pytestmark = pytest.mark.engines
CUT = 2.0  # seconds; the bench's is a minute
SMALL = {
    "sampling": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4},
    "evaluation": {"prompts": 2},
    "checkpoints": {"every": 0},
}


class RayStudio(SharedStudio):
    """With a supervisor on `outside`."""

    def __init__(
        self, folder: Path, network: HostNetwork, server: SharedPostgres, cluster: RayCluster
    ) -> None:
        super().__init__(folder / "studio", network, server)
        self.cluster = cluster
        self._launcher = {VARIABLE: f"ray={cluster.address}"}
        self._supervisor = self.supervise("outside", **self._launcher)

    def restart_supervisor(self, *program: str) -> None:
        """As after its sudden death."""
        self._supervisor.send(signal.SIGKILL)
        self._supervisor.wait()
        self._supervisor = self.supervise("outside", program, **self._launcher)

    def turn_on(self, host: str) -> None:
        self.network.start(host)
        self.cluster.start_node(host)

    def waits_for(self, run_id: str) -> str:
        return why_queued(self.engine, [self.run(run_id)], "").get(run_id, "")

    def processes(self, run_id: str) -> list[str]:
        """Command lines of the run's job, on all hosts."""
        return [line for line in command_lines() if run_id in line]

    def jobs_api(self) -> str:
        """All that Ray tells everybody of its jobs."""
        address = self.cluster.address
        with self.network.outside.network(), client(address, timeout=30) as http:
            return http.get(f"{address}/api/jobs/").text

    def output(self) -> str:
        return f"{super().output()}\n{self.jobs_api()}"

    def close(self) -> None:
        self._supervisor.send(signal.SIGKILL)
        self._supervisor.wait()
        super().close()


def command_lines() -> list[str]:
    lines = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            lines.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return lines


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayStudio]:
    folder = tmp_path_factory.mktemp("ray")
    with (
        host_network(folder / "network", "one", "two") as network,
        shared_postgres(network) as server,
        ray_cluster(network, NOTICES_SOON) as cluster,
    ):
        studio = RayStudio(folder, network, server, cluster)
        yield studio
        studio.close()


class TestRay(LauncherContract):
    @pytest.fixture
    def launcher(self, shared: RayStudio) -> Iterator[Ray]:
        with shared.network.outside.network():
            made = Ray(shared.cluster.address)
            made.grace = 3.0
            yield made

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path

    def test_what_no_node_has_is_waited_for(self, launcher: Ray, folder: Path) -> None:
        one, two = JobNeeds(gpus=3, memory_gb=2.0), JobNeeds(nodes=3)
        first = launcher.submit("opd-large", ["true"], one, folder / "log")
        second = launcher.submit("opd-wide", ["true"], two, folder / "log")
        state = self.wait(launcher, first, "waiting")
        assert state.why == "waiting for 1 CPU, 3 GPU, 2 GB of memory"
        state = self.wait(launcher, second, "running")
        assert state.why == "waiting for 3 nodes, each with 1 CPU"
        launcher.stop(first)  # which Ray hears only where it finds a node for it
        launcher.stop(second)
        self.wait(launcher, second, "ended")

    def test_a_log_that_cannot_be_written_is_told(self, launcher: Ray, folder: Path) -> None:
        job = self.submit(launcher, folder / "missing", SAYS)
        assert self.wait(launcher, job, "ended").exit_code not in (0, None)
        assert "missing/log" in launcher.log(job)


def test_a_job_runs_on_a_node_tells_no_secret_and_saves_when_it_is_stopped(
    shared: RayStudio,
) -> None:
    run_id = shared.queue("slow", steps=3000, checkpoints={"every": 0})
    shared.wait_step(run_id, 3)
    [row] = placing.placed(shared.engine, "ray")
    assert row.job is not None and row.claimed
    texts = [*command_lines(), shared.output()]
    with shared.network.outside.network():
        page = log_of(shared.data_dir, shared.run(run_id))
        Ray(shared.cluster.address).stop(row.job.removeprefix("ray:"))
    assert page is not None and b"step 1/3000" in page.read(0, 10_000)
    shared.wait_status(run_id, "interrupted")
    run = shared.run(run_id)
    assert run["error_kind"] == "terminated"
    assert run["checkpoints"][-1]["step"] == run["step"] >= 3
    files = [path for path in shared.cluster.folder.rglob("*.*") if path.is_file()]
    texts += [path.read_text(errors="replace") for path in files]
    assert run_id in "".join(texts) and PASSWORD not in "".join(texts)
    shared.wait(lambda: placing.placed(shared.engine, "ray") == [])


def test_every_run_ends_once_whatever_dies_meanwhile(shared: RayStudio) -> None:
    """Five runs on two nodes; the controller is killed, the network of a node cut for a moment, and
    that node killed."""
    long = [shared.queue("slow", steps=120) for _ in range(2)]
    short = [shared.queue(steps=2) for _ in range(3)]
    shared.restart_supervisor(*FAKE)
    shared.wait(lambda: shared.waits_for(short[0]) == "Ray: waiting for 1 CPU")
    for run_id in long:
        shared.wait_step(run_id)
    [two] = [run for run in jobs.running(shared.engine) if host_of(run["owner"]) == "two"]
    shared.network.cut("two")
    time.sleep(CUT)
    shared.network.mend("two")
    step = shared.run(two["id"])["step"]
    shared.wait_step(two["id"], step + 1)
    shared.network["two"].kill()
    shared.wait_status(two["id"], "interrupted")
    assert shared.run(two["id"])["error_text"].startswith(("no heartbeat", "Ray: the job ended"))
    jobs.requeue(shared.engine, two["id"])
    shared.turn_on("two")
    for run_id in (*long, *short):
        shared.wait_status(run_id, "finished")
        run = shared.run(run_id)
        assert shared.steps_of(run_id) == list(range(1, run["step"] + 1))
        assert run["attempt"] == (2 if run_id == two["id"] else 1)


def test_two_nodes_train_one_run_by_torchrun_and_no_process_is_left(shared: RayStudio) -> None:
    shared.restart_supervisor(*program("app.worker.supervisor"))
    run_id = shared.queue("two", steps=1000, devices=2, resources={"nodes": 2}, **SMALL)
    shared.wait_step(run_id, 2)
    assert len([line for line in shared.processes(run_id) if "--nnodes=2" in line]) >= 2
    [row] = placing.placed(shared.engine, "ray")
    assert row.claimed
    jobs.request_cancel(shared.engine, run_id, "save")
    shared.wait_status(run_id, "cancelled")
    run = shared.run(run_id)
    assert run["checkpoints"][-1]["step"] == run["step"] >= 2
    shared.wait(lambda: not shared.processes(run_id))
    jobs.requeue(shared.engine, run_id)
    shared.wait_step(run_id, run["step"] + 1)
    shared.network["two"].kill()
    shared.wait_status(run_id, "interrupted", "failed")
    assert shared.run(run_id)["error_text"]
    shared.wait(lambda: not shared.processes(run_id))
