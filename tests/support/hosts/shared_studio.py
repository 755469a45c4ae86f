"""One data directory and one database, and the supervisors of several hosts that share both."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.worker.launchers.database import DATABASE_VARIABLE, write_address
from app.worker.owners.place import host_of
from opd.config.run import parse
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.read.runs import read_run, read_steps
from tests.support.fake_training import ROOT, SCRIPT
from tests.support.hosts.network import HostNetwork, HostProcess
from tests.support.hosts.postgres import SharedPostgres

FAKE = (sys.executable, str(SCRIPT), "supervisor")
LOST_AFTER = 6.0  # seconds in the place of sixty


class SharedStudio:
    """Runs have no models, and steps of 20 ms or, where they are called slow, of 100."""

    patience = 300.0  # seconds

    def __init__(self, folder: Path, network: HostNetwork, server: SharedPostgres) -> None:
        self.data_dir = DataDir(folder)
        self.data_dir.path.mkdir(exist_ok=True)
        write_address(self.data_dir, server.url)
        self.network = network
        self.url = server.url
        self.engine: Engine = open_database(server.local_url)
        self.supervisors: dict[str, HostProcess] = {}

    def supervise(
        self, name: str, program: Sequence[str] = FAKE, **environment: str
    ) -> HostProcess:
        """A supervisor on that host; its output is kept beside its log."""
        host = self.network.outside if name == "outside" else self.network[name]
        supervisor = host.start(
            [*program, "--data-dir", str(self.data_dir)],
            {
                DATABASE_VARIABLE: self.url,
                "PYTHONPATH": str(ROOT),
                "FAKE_LOST_AFTER": str(LOST_AFTER),
                **environment,
            },
            log=self.data_dir.path.with_name(f"{name}-output.txt"),
        )
        self.supervisors[name] = supervisor
        return supervisor

    def queue(self, name: str = "fast", *, steps: int = 6, **options: Any) -> str:
        config = {"name": name, "steps": steps, "device": "cpu", "checkpoints": {"every": 2}}
        return jobs.create_run(self.engine, parse(config | options))

    def run(self, run_id: str) -> dict[str, Any]:
        return read_run(self.engine, run_id)

    def steps_of(self, run_id: str) -> list[int]:
        steps: list[int] = read_steps(self.engine, run_id)["columns"]["step"]
        return steps

    def host_of(self, run_id: str) -> str:
        """The host whose process has the run."""
        [row] = [row for row in jobs.running(self.engine) if row["id"] == run_id]
        return host_of(row["owner"])

    def wait(self, condition: Callable[[], Any], seconds: float | None = None) -> None:
        seconds = self.patience if seconds is None else seconds
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds} s\n{self.output()}"
            time.sleep(0.05)

    def wait_status(self, run_id: str, *status: str, seconds: float | None = None) -> None:
        self.wait(lambda: self.run(run_id)["status"] in status, seconds)

    def wait_step(self, run_id: str, step: int = 1) -> None:
        self.wait(lambda: self.run(run_id)["step"] >= step)

    def output(self) -> str:
        """What supervisors and jobs have said."""
        logs = [*self.data_dir.path.glob("hosts/*/*.log"), *self.data_dir.path.glob("runs/*/log*")]
        logs += self.data_dir.path.parent.glob("*-output.txt")
        return "".join(f"--- {log}\n{log.read_text()[-3000:]}\n" for log in logs)

    def close(self) -> None:
        self.engine.dispose()
