"""Runs on a real SLURM of two nodes, hosts of their own that share PostgreSQL and a folder."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from app.worker.launchers.database import DATABASE_VARIABLE, write_address
from opd.config.run import parse
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs, placing
from storage.read.runs import read_run
from tests.support.fake_training import ROOT, SCRIPT
from tests.support.hosts.network import HostNetwork, HostProcess, host_network
from tests.support.hosts.postgres import PASSWORD, SharedPostgres, shared_postgres
from tests.support.hosts.slurm import SlurmCluster, slurm_cluster

pytestmark = pytest.mark.engines


def processes() -> list[str]:
    return [pid for pid in os.listdir("/proc") if pid.isdigit()]


class SlurmStudio:
    """A data directory that the hosts share, its database, and a supervisor on `outside`."""

    def __init__(
        self, folder: Path, network: HostNetwork, server: SharedPostgres, cluster: SlurmCluster
    ) -> None:
        self.data_dir = DataDir(folder / "studio")
        self.data_dir.path.mkdir()
        self.network, self.server, self.cluster = network, server, cluster
        self.engine: Engine = open_database(server.local_url)
        write_address(self.data_dir, server.url)
        self.supervisor = self.start_supervisor()

    def start_supervisor(self) -> HostProcess:
        command = [sys.executable, str(SCRIPT), "supervisor", "--data-dir", str(self.data_dir)]
        environment = {
            **self.cluster.environment,
            "OPD_LAUNCHER": "slurm",
            "PYTHONPATH": str(ROOT),
            DATABASE_VARIABLE: self.server.url,
        }
        log = self.data_dir.path / "supervisor-output.txt"
        return self.network.outside.start(command, environment, log=log)

    def close(self) -> None:
        self.supervisor.send(signal.SIGKILL)
        self.supervisor.wait()
        self.engine.dispose()

    def queue(self, name: str = "fast", *, steps: int = 6, **options: Any) -> str:
        config = {"name": name, "steps": steps, "device": "cpu", "checkpoints": {"every": 2}}
        return jobs.create_run(self.engine, parse(config | options))

    def run(self, run_id: str) -> dict[str, Any]:
        return read_run(self.engine, run_id)

    def log(self, run_id: str) -> str:
        return self.data_dir.run(run_id).log.read_text()

    def wait(self, condition: Callable[[], Any], seconds: float = 120) -> float:
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < seconds, f"not within {seconds} s"
            time.sleep(0.05)
        return time.monotonic() - start

    def wait_status(self, run_id: str, *status: str, seconds: float = 120) -> float:
        return self.wait(lambda: self.run(run_id)["status"] in status, seconds)

    def wait_step(self, run_id: str, step: int = 1) -> None:
        self.wait(lambda: self.run(run_id)["step"] >= step)


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
    host = jobs.running(shared.engine)[0]["owner"].place.split()[0]
    assert shared.cluster.run("squeue", "--noheader", "--format=%i %N") == f"{number} {host}\n"
    script = shared.cluster.run("scontrol", "write", "batch_script", number, "-")
    assert f"--cluster-job 'slurm:?opd-{run_id}" in script
    told = [script, shared.cluster.run("scontrol", "show", "job", "--details")]
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            told.append(Path(f"/proc/{pid}/cmdline").read_text())
    shared.wait_status(run_id, "finished")
    run = shared.run(run_id)
    assert (run["attempt"], run["step"]) == (1, 60)
    told += [path.read_text() for path in shared.data_dir.path.rglob("*.txt")]
    told += [path.read_text() for path in shared.data_dir.path.rglob("*.log")]
    assert run_id in "".join(told) and PASSWORD not in "".join(told)
    shared.wait(lambda: placing.placed(shared.engine, "slurm") == [])
