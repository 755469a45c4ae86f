"""The supervisor: starts queued runs, one per device slot or each as a cluster's job, and notices
how they end; starts the model process and the file process when there is a request for them.

    python -m app.worker.supervisor --data-dir DIR [--parent PID]

One per data directory. It never loads torch, keeps nothing that a new one could not find again,
and leaves running jobs alone when it ends.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.worker import process
from app.worker.cancellation import Pressure
from app.worker.devices.inventory import HostBeat
from app.worker.errors import describe
from app.worker.experiments import advance_all
from app.worker.launchers.choice import launcher_named
from app.worker.launchers.cluster import ClusterStarting
from app.worker.launchers.database import address_of, data_dir_at
from app.worker.launchers.launcher import VARIABLE, Launcher
from app.worker.launchers.starting import LocalStarting, Starting
from app.worker.logs import start_log
from app.worker.models.supervision import FileProcessSupervisor, ModelProcessSupervisor
from app.worker.owners.standing import Beat, Judge
from app.worker.recovery import Running, bury_hung, look, running
from opd.errors import UserError
from storage import locks
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs

log = logging.getLogger(__name__)
JOB = process.program("app.worker.job")
TURN = 0.25  # seconds between two looks
HUNG_AFTER = 60.0
SLEPT = 10.0
EXPECTED = (UserError, SQLAlchemyError, OSError)
GIVES_UP_AFTER = 10  # turns in a row that failed


class Supervisor:
    """`turn()` looks once at everything; time is measured by a clock that no one sets."""

    def __init__(
        self,
        engine: Engine,
        data_dir: DataDir,
        job: Sequence[str] = JOB,
        launcher: Launcher | None = None,
    ) -> None:
        self._engine = engine
        self._data_dir = data_dir
        self._starting: Starting = (
            LocalStarting(engine, data_dir, job)
            if launcher is None
            else ClusterStarting(engine, data_dir, job, launcher)
        )
        self._judge = Judge(data_dir)
        self._pressure = Pressure(engine, data_dir)
        self._model_process = ModelProcessSupervisor(engine, data_dir)
        self._file_process = FileProcessSupervisor(engine, data_dir)
        self._beat = HostBeat(engine, data_dir, takes_runs=launcher is None)
        self._looked = time.monotonic()

    def forget(self) -> None:
        """Counts every owner's silence afresh."""
        self._judge.forget()

    def turn(self) -> None:
        self._starting.bury()
        runs_now = running(self._engine)
        now = time.monotonic()
        if now - self._looked > SLEPT:  # the whole machine did, or the database was out of reach
            self._judge.forget()
        self._looked = now
        here = self._judge.place
        for run in runs_now:
            mine = here.judges(run.owner)
            reapable = mine and self._starting.reapable(run.owner.pid)
            if not reapable and look(self._engine, self._data_dir, run, self._judge) != "living":
                continue
            if mine:
                self._look_at(run)
        queued = jobs.next_queued(self._engine)
        self._starting.start([row for row in queued if not self._waited_for(row)])
        self._model_process.turn()
        self._file_process.turn()
        self._beat.turn()
        advance_all(self._engine, self._data_dir, self._judge)

    def _look_at(self, run: Running) -> None:
        """At a living process of this place."""
        if run.cancel_mode:
            self._pressure.press(run)
            return
        if process.stopped(run.owner.pid):  # by a person or a scheduler, who may let it go on
            self._tell_stopped(run)
            self._judge.forget(run.key)
            return
        silence = self._judge.silence(run.key, run.beat)
        if silence > HUNG_AFTER:
            bury_hung(self._engine, self._data_dir, run, silence)

    def _tell_stopped(self, run: Running) -> None:
        text = f"stopped by a signal; to go on: kill -CONT {run.owner.pid}"
        if run.phase != text:
            log.warning("%s: %s", run.id, text)
            with suppress(jobs.LeaseLost):
                jobs.set_phase(self._engine, run.id, run.attempt, text)

    def _waited_for(self, row: dict[str, Any]) -> bool:
        """Whether a command line will run it itself; one that has died wants it no more."""
        waiter = row["waiter"]
        if waiter is None:
            return False
        beat = Beat(row["heartbeat_at"], row["age"])
        if self._judge.standing(row["id"], waiter, beat) in ("gone", "lost"):
            jobs.request_cancel(self._engine, row["id"], "save")
        return True


def lock(data_dir: DataDir, parent: int | None) -> locks.Lock | None:
    """Holds the data directory's supervisor lock; waits for it; None when the parent goes first."""
    waiting = False
    while not orphaned(parent):
        if (lock_file := locks.take(data_dir.supervisor_lock)) is not None:
            return lock_file
        if not waiting:
            log.info("another supervisor serves %s: waiting", data_dir)
        waiting = True
        time.sleep(TURN)
    return None


def orphaned(parent: int | None) -> bool:
    return parent is not None and os.getppid() != parent


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main(arguments: list[str] | None = None, job: Sequence[str] = JOB) -> int:
    parser = argparse.ArgumentParser(prog="app.worker.supervisor")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--parent", type=int, default=None, help="ends when this process does")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    try:
        _supervise(data_dir_at(options.data_dir), options.parent, job)
    except EXPECTED as error:
        text = describe(error).text
        if isinstance(error, OSError) and error.filename:
            text = f"{error.filename}: {error.strerror}"
        sys.stderr.write(f"Error: {text}\n")  # the server's watchdog reads it
        return 1
    except Exception:
        log.exception("the supervisor ends")
        raise
    return 0


def _supervise(data_dir: DataDir, parent: int | None, job: Sequence[str]) -> None:
    """Until the parent has gone. Raises what keeps it from its work, or did so ten times in a row:
    the server tells of a supervisor that ends, not of one that can do nothing."""
    if parent is None:
        data_dir.path.mkdir(parents=True, exist_ok=True)
    if not data_dir.path.is_dir():  # gone while the server runs: not to be made anew, and empty
        raise UserError("the data directory is gone or not mounted", where=str(data_dir))
    data_dir.make_host_folder()
    start_log(data_dir.supervisor_log)
    lock_file = lock(data_dir, parent)
    if lock_file is None:
        return
    engine = open_database(address_of(data_dir))
    supervisor = Supervisor(engine, data_dir, job, launcher_named(os.environ.get(VARIABLE)))
    failures = 0
    while not orphaned(parent):
        try:
            supervisor.turn()
            failures = 0
        except EXPECTED as error:
            log.error("%s", error)
            supervisor.forget()  # nobody's heartbeat was stored meanwhile, or seen
            failures += 1
            if failures == GIVES_UP_AFTER:
                raise
            time.sleep(1)
        time.sleep(TURN)
    log.info("the server has exited; running jobs continue")


if __name__ == "__main__":
    sys.exit(main())
