"""A data directory with real processes around it, for tests."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Engine

from opd.config.run import parse
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.read.runs import read_run, read_runs
from tests.support.databases.matrix import environment, new_database
from tests.support.fake_training import ROOT, SCRIPT

FULL = bool(os.environ.get("OPD_FULL"))


class Studio:
    """Starts supervisors, jobs and commands on one data directory, and ends them all."""

    def __init__(self, data_dir: Path, database_url: str | None = None) -> None:
        self.data_dir = data_dir
        self._url = database_url
        data_dir.mkdir(parents=True, exist_ok=True)
        self.engine: Engine = (
            open_database(database_url) if database_url else new_database(data_dir)
        )
        self.started: list[subprocess.Popen[str]] = []

    def start(self, part: str, *arguments: str, **environment: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), part, *arguments, "--data-dir", str(self.data_dir)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment() | environment,
            start_new_session=part == "job",
        )
        self.started.append(process)
        return process

    def supervisor(self, **environment: str) -> "subprocess.Popen[str]":
        return self.start("supervisor", **environment)

    def environment(self) -> dict[str, str]:
        named = {"OPD_DATABASE_URL": self._url} if self._url else environment(self.data_dir)
        return os.environ | {"PYTHONPATH": str(ROOT)} | named

    def queue(
        self, name: str = "fast", *, steps: int = 6, device: str = "cpu", **options: Any
    ) -> str:
        config = parse(
            {"name": name, "steps": steps, "device": device, "checkpoints": {"every": 2}}
        )
        return jobs.create_run(self.engine, config, **options)

    def run(self, run_id: str) -> dict[str, Any]:
        return read_run(self.engine, run_id)

    def status(self, run_id: str) -> str:
        return str(self.run(run_id)["status"])

    def pid(self, run_id: str) -> int:
        """The process that runs it now."""
        return int(next(r["owner"].pid for r in jobs.running(self.engine) if r["id"] == run_id))

    def wait(self, condition: Callable[[], Any], seconds: float = 120) -> float:
        """Waits until the condition holds; returns how long that took."""
        start = time.monotonic()
        while not condition():
            assert time.monotonic() - start < seconds, f"not within {seconds} s"
            time.sleep(0.02)
        return time.monotonic() - start

    def wait_status(self, run_id: str, status: str, seconds: float = 120) -> float:
        return self.wait(lambda: self.status(run_id) == status, seconds)

    def wait_step(self, run_id: str, step: int = 1) -> None:
        self.wait(lambda: self.run(run_id)["step"] >= step)

    def descendants(self) -> list[int]:
        """Every process, of whichever parent, that names this data directory or a run of it."""
        pids = []
        for process in psutil.process_iter(["cmdline", "environ", "status"]):
            line = " ".join(process.info["cmdline"] or ())
            mark = (process.info["environ"] or {}).get("OPD_JOB", "")
            mine = str(self.data_dir) in line or (mark and self._is_mine(mark))
            if mine and process.pid != os.getpid() and process.info["status"] != "zombie":
                pids.append(process.pid)
        return pids

    def _is_mine(self, mark: str) -> bool:
        ids = {r["id"] for r in read_runs(self.engine, limit=1000)["items"]}
        return mark.partition(":")[0] in ids

    def close(self) -> None:
        for pid in self.descendants():
            psutil.Process(pid).kill()
        for process in self.started:
            process.kill()
            process.communicate()
        self.engine.dispose()


def hold_still(pid: int, data_dir: DataDir) -> None:
    """Stops the process at a moment when it does not hold the database's lock."""
    with closing(sqlite3.connect(data_dir.database, timeout=0, isolation_level=None)) as connection:
        while True:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.05)
            try:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                os.kill(pid, signal.SIGCONT)
                time.sleep(0.05)
