"""Runs on a real SLURM of two nodes, hosts of their own that share PostgreSQL and a folder."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.version import program_version
from app.worker import process
from app.worker.devices.waiting import why_queued
from app.worker.launchers.database import DATABASE_VARIABLE
from app.worker.launchers.launcher import VARIABLE
from app.worker.launchers.slurm import Slurm
from app.worker.owners.place import host_of
from storage.queue import jobs, placing
from tests.support.fake_training import ROOT, SCRIPT
from tests.support.hosts.clocks import wrong_clock
from tests.support.hosts.launcher_contract import LauncherContract
from tests.support.hosts.network import HostNetwork, HostProcess, host_network
from tests.support.hosts.postgres import PASSWORD, SharedPostgres, shared_postgres
from tests.support.hosts.shared_studio import SharedStudio
from tests.support.hosts.slurm import SlurmCluster, slurm_cluster

pytestmark = pytest.mark.engines
FAKE = (sys.executable, str(SCRIPT), "supervisor")


class SlurmStudio(SharedStudio):
    """With a supervisor on `outside`."""

    patience = 120.0

    def __init__(
        self, folder: Path, network: HostNetwork, server: SharedPostgres, cluster: SlurmCluster
    ) -> None:
        super().__init__(folder / "studio", network, server)
        self.cluster = cluster
        self.environment = {
            **cluster.environment,
            VARIABLE: "slurm",
            "PYTHONPATH": str(ROOT),
            DATABASE_VARIABLE: server.url,
        }
        self.supervisor = self.start_supervisor(*FAKE)

    def start_supervisor(self, *program: str) -> HostProcess:
        command = [*program, "--data-dir", str(self.data_dir)]
        log = self.data_dir.path / "supervisor-output.txt"
        return self.network.outside.start(command, self.environment, log=log)

    def restart_supervisor(self, *program: str) -> None:
        """As after its sudden death."""
        self.supervisor.send(signal.SIGKILL)
        self.supervisor.wait()
        self.supervisor = self.start_supervisor(*program)

    def job_name(self, run_id: str) -> str:
        names = self.cluster.run("squeue", "--noheader", "--Format=Name:99").split()
        return next(name for name in names if run_id in name)

    def close(self) -> None:
        self.supervisor.send(signal.SIGKILL)
        self.supervisor.wait()
        super().close()

    def turn_on(self, host: str) -> None:
        self.network.start(host)
        self.cluster.start_node(host)

    def waits_for(self, run_id: str) -> str:
        return why_queued(self.engine, [self.run(run_id)], "").get(run_id, "")

    def log(self, run_id: str) -> str:
        return self.data_dir.run(run_id).log.read_text()

    def wait_status(self, run_id: str, *status: str, seconds: float | None = None) -> None:
        try:
            super().wait_status(run_id, *status, seconds=seconds)
        except AssertionError as error:
            state = {n: self.run(run_id)[n] for n in ("status", "step", "attempt", "error_text")}
            jobs_there = self.cluster.run("squeue", "--noheader", "--format=%i %j %T %r %N")
            error.add_note(f"{state}\n{self.waits_for(run_id)}\n{jobs_there}")
            raise


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmStudio]:
    folder = tmp_path_factory.mktemp("slurm")
    with (
        host_network(folder / "network", "one", "two") as network,
        shared_postgres(network) as server,
        slurm_cluster(network, folder / "slurm") as cluster,
    ):
        studio = SlurmStudio(folder, network, server, cluster)
        yield studio
        studio.close()


def test_a_run_is_a_job_on_a_host_and_no_secret_is_told(shared: SlurmStudio) -> None:
    run_id = shared.queue("slow", steps=60)
    shared.wait_status(run_id, "running")
    [job] = placing.placed(shared.engine, "slurm")
    number = str(job.job).removeprefix("slurm:")
    host = shared.host_of(run_id)
    assert shared.cluster.run("squeue", "--noheader", "--format=%i %N") == f"{number} {host}\n"
    script = shared.cluster.run("scontrol", "write", "batch_script", number, "-")
    assert f"--cluster-job 'slurm:?opd-{run_id}" in script
    texts = [script, shared.cluster.run("scontrol", "show", "job", "--details")]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            texts.append(Path(f"/proc/{pid}/cmdline").read_text())
    shared.wait_status(run_id, "finished")
    run = shared.run(run_id)
    assert (run["attempt"], run["step"]) == (1, 60)
    texts += [path.read_text() for path in shared.data_dir.path.rglob("*.txt")]
    texts += [path.read_text() for path in shared.data_dir.path.rglob("*.log")]
    assert run_id in "".join(texts) and PASSWORD not in "".join(texts)
    shared.wait(lambda: placing.placed(shared.engine, "slurm") == [])


def test_every_run_ends_once_whatever_dies_meanwhile(shared: SlurmStudio) -> None:
    """Five runs on two hosts; the controller is killed, then SLURM's, then a host."""
    runs = [shared.queue("slow", steps=60) for _ in range(5)]
    shared.restart_supervisor(*FAKE)
    shared.wait(lambda: len(jobs.running(shared.engine)) == 2)
    waiting = next(row["id"] for row in jobs.next_queued(shared.engine))
    shared.wait(lambda: shared.waits_for(waiting).startswith("SLURM: waiting"))
    shared.cluster.stop_controller()
    shared.cluster.start_controller()
    [two] = [run for run in jobs.running(shared.engine) if host_of(run["owner"]) == "two"]
    shared.network["two"].kill()
    shared.wait_status(two["id"], "interrupted")
    assert shared.run(two["id"])["error_text"].startswith(
        ("SLURM: host two failed", "no heartbeat")
    )
    jobs.requeue(shared.engine, two["id"])
    shared.turn_on("two")
    for run_id in runs:
        shared.wait_status(run_id, "finished", seconds=120)
        assert shared.steps_of(run_id) == list(range(1, 61))
        assert shared.run(run_id)["attempt"] == (2 if run_id == two["id"] else 1)


def test_two_nodes_train_one_run_by_torchrun(shared: SlurmStudio) -> None:
    shared.restart_supervisor(*process.program("app.worker.supervisor"))
    small = {
        "sampling": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4},
        "evaluation": {"prompts": 2},
        "steps": 2,
    }
    run_id = shared.queue("two", devices=2, resources={"nodes": 2}, **small)
    shared.wait_status(run_id, "finished", "failed", "interrupted", seconds=400)
    assert shared.run(run_id)["status"] == "finished", shared.log(run_id)
    assert shared.run(run_id)["step"] == 2
    shared.restart_supervisor(*FAKE)


def test_scancel_saves_a_checkpoint(shared: SlurmStudio) -> None:
    run_id = shared.queue("slow", steps=2000, checkpoints={"every": 0})
    shared.wait_step(run_id, 3)
    shared.cluster.run("scancel", f"--name={shared.job_name(run_id)}")
    shared.wait_status(run_id, "interrupted")
    run = shared.run(run_id)
    assert run["error_kind"] == "terminated"
    assert run["checkpoints"][-1]["step"] == run["step"] >= 3


def test_what_no_machine_can_give_is_named_before_it_is_submitted(shared: SlurmStudio) -> None:
    for resources, text in (
        ({"partition": "nope"}, "resources.partition: is no partition of this cluster (got nope)"),
        ({"memory_gb": 9}, "resources.memory_gb: is too much (got 8,583.07): 4,000 MiB"),
        (
            {"hours": 1, "partition": "short"},
            "resources.hours: is too much (got 1): 0.166667 hours",
        ),
    ):
        run_id = shared.queue(resources=resources)
        shared.wait_status(run_id, "failed")
        assert shared.run(run_id)["error_text"].startswith(text)
        assert run_id not in shared.cluster.run("squeue", "--states=all", "--Format=Name:99")


def test_a_command_trains_where_it_is_called(shared: SlurmStudio, tmp_path: Path) -> None:
    recipe = tmp_path / "here.yaml"
    recipe.write_text("name: here\nsteps: 2\ndevice: cpu\n")
    command = (sys.executable, str(SCRIPT), "cli", "train", str(recipe), "--json")
    done = shared.network.outside.run(
        *(*command, "--data-dir", str(shared.data_dir.path)),
        environment=shared.environment,
    )
    assert done.returncode == 0, done.stderr
    run_id = json.loads(done.stdout.splitlines()[-1])["run_id"]
    assert shared.run(run_id)["cluster_job"] is None
    assert run_id not in shared.cluster.run("squeue", "--states=all", "--Format=Name:99")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"clock": "+1h"}, "clock: on two is 3,600 s ahead of the database's"),
        ({"version": "9.9"}, "the server's is 9.9: install one on all hosts"),
        ({"mode": "644"}, "has mode 0644, so that others can read the database's password"),
    ],
)
def test_a_host_that_cannot_run_it_says_why(
    shared: SlurmStudio, tmp_path: Path, change: dict[str, str], text: str
) -> None:
    sleeps = tmp_path / "clock"
    clock = wrong_clock(sleeps, change["clock"], "slurm") if "clock" in change else {}
    shared.data_dir.database_url.chmod(int(change.get("mode", "600"), 8))
    options = ("--cluster-job", "slurm:?x", "--version", change.get("version", program_version()))
    done = shared.network["two"].run(
        *(
            sys.executable,
            str(SCRIPT),
            "job",
            "run-none",
            "--data-dir",
            str(shared.data_dir),
            *options,
        ),
        environment={"PYTHONPATH": f"{sleeps}{os.pathsep}{ROOT}", **clock},
    )
    shared.data_dir.database_url.chmod(0o600)
    assert done.returncode == 2 and text in done.stderr
    assert PASSWORD not in done.stderr


class TestSlurm(LauncherContract):
    @pytest.fixture
    def launcher(self, shared: SlurmStudio, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
        monkeypatch.setenv("SLURM_CONF", shared.cluster.environment["SLURM_CONF"])
        with shared.network.outside.network():
            made = Slurm()
            made.check()
            yield made

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path
