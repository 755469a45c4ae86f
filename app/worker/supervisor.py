"""The supervisor: starts queued runs, one per device slot, and notices how they end; starts the
model process and the file process when there is a request for them.

    python -m app.worker.supervisor --data-dir DIR [--parent PID]

One per data directory. It never loads torch, keeps nothing that a new one could not find again,
and leaves running jobs alone when it ends.
"""

import argparse
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.worker import process
from app.worker.cancellation import Pressure
from app.worker.devices import slots
from app.worker.devices.holds import taken_here
from app.worker.errors import describe
from app.worker.experiments import advance_all
from app.worker.job import DATABASE_VARIABLE, EXIT_NOT_CLAIMED
from app.worker.logs import start_log
from app.worker.models.supervision import FileProcessSupervisor, ModelProcessSupervisor
from app.worker.owners.standing import Beat, Judge
from app.worker.recovery import Running, bury, bury_hung, did_not_start, finish, look, running
from app.worker.standby import Standby
from opd.devices.gpus import gpu_count
from opd.errors import ErrorKind, UserError
from storage import locks
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.queue import jobs
from storage.queue.failure import Failure

log = logging.getLogger(__name__)
JOB = process.program("app.worker.job")
TURN = 0.25  # seconds between two looks
HUNG_AFTER = 60.0
SLEPT = 10.0
EXPECTED = (UserError, SQLAlchemyError, OSError)
GIVES_UP_AFTER = 10  # turns in a row that failed


@dataclass(frozen=True)
class Child:
    process: subprocess.Popen[bytes]
    slot: str


class Supervisor:
    """`turn()` looks once at everything; time is measured by a clock that no one sets."""

    def __init__(self, engine: Engine, data_dir: DataDir, job: Sequence[str] = JOB) -> None:
        self._engine = engine
        self._data_dir = data_dir
        self._job = job
        self._children: dict[str, Child] = {}
        self._judge = Judge(data_dir)
        self._pressure = Pressure(engine, data_dir)
        self._model_process = ModelProcessSupervisor(engine, data_dir)
        self._file_process = FileProcessSupervisor(engine, data_dir)
        self._standby = Standby(data_dir, job)
        self._looked = time.monotonic()

    def turn(self) -> None:
        now = time.monotonic()
        if now - self._looked > SLEPT:  # the whole machine did: jobs get their time afresh
            self._judge.forget()
        self._looked = now
        self._bury_children()
        runs_now = running(self._engine)
        here = self._judge.place
        children = {child.process.pid for child in self._children.values()}
        for run in runs_now:
            mine = here.judges(run.owner)
            reapable = mine and run.owner.pid in children  # its end is told by its exit code
            if not reapable and look(self._engine, self._data_dir, run, self._judge) != "living":
                continue
            if mine:
                self._look_at(run)
        self._start_queued()
        self._standby.turn()
        self._model_process.turn()
        self._file_process.turn()
        advance_all(self._engine, self._data_dir, self._judge)

    def _bury_children(self) -> None:
        """Reaps children that have ended, and records it where they could not do so themselves."""
        ended = {i: c for i, c in self._children.items() if c.process.poll() is not None}
        if not ended:
            return
        owned = {(run.id, run.owner.pid): run for run in running(self._engine)}
        for run_id, child in ended.items():
            code = child.process.returncode
            run = owned.get((run_id, child.process.pid))
            if run is not None:
                bury(self._engine, self._data_dir, run, code)
            elif code not in (0, EXIT_NOT_CLAIMED):
                self._never_claimed(run_id, child, code)
            del self._children[run_id]

    def _never_claimed(self, run_id: str, child: Child, code: int) -> None:
        """A job that could not even start must not be started again and again."""
        if run_id not in {row["id"] for row in jobs.next_queued(self._engine)}:
            return
        self._fail(run_id, child.slot, did_not_start(self._data_dir, run_id, code))

    def _fail(self, run_id: str, slot: str, text: str) -> None:
        """Ends a queued run that has no process."""
        me = process.this_process(self._data_dir)
        attempt = jobs.claim(self._engine, run_id, slot, me)
        if attempt is None:
            return
        run = Running(run_id, attempt, slot, me, None, None, None, None, "")
        finish(self._engine, self._data_dir, run, "failed", Failure(ErrorKind.ERROR, text))

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

    def _start_queued(self) -> None:
        queued = [row for row in jobs.next_queued(self._engine) if not self._waited_for(row)]
        if not queued:
            return
        taken = set(taken_here(self._engine))
        taken |= {child.slot for child in self._children.values()}
        gpus = gpu_count()
        for row in queued:
            slot = slots.choose(row["device"], taken, gpus, count=row["devices"])
            if slot is not None and row["id"] not in self._children:
                self._try_to_start(row["id"], slot)
                taken.add(slot)

    def _waited_for(self, row: dict[str, Any]) -> bool:
        """Whether a command line will run it itself; one that has died wants it no more."""
        waiter = row["waiter"]
        if waiter is None:
            return False
        beat = Beat(row["heartbeat_at"], row["age"])
        if self._judge.standing(row["id"], waiter, beat) in ("gone", "lost"):
            jobs.request_cancel(self._engine, row["id"], "save")
        return True

    def _try_to_start(self, run_id: str, slot: str) -> None:
        """A run whose process cannot be started, or whose log cannot be opened, fails with that."""
        try:
            self._children[run_id] = self._start(run_id, slot)
        except OSError as error:
            cause = f"{error.filename or 'its process'}: {error.strerror or error}"
            self._fail(run_id, slot, f"the job did not start: {cause}")

    def _start(self, run_id: str, slot: str) -> Child:
        """The process claims the run itself. Raises OSError."""
        run_log = self._data_dir.run(run_id).log
        run_log.parent.mkdir(parents=True, exist_ok=True)
        run_log.open("ab").close()
        started = self._standby.take(run_id, slot, run_log)
        if started is None:
            command = [*self._job, run_id, "--data-dir", str(self._data_dir), "--slot", slot]
            started = process.start_detached(command, log=run_log)
        log.info("%s: process %d on %s", run_id, started.pid, slot)
        return Child(started, slot)


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
    database_url = os.environ.get(DATABASE_VARIABLE)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    try:
        _supervise(DataDir.used_with(options.data_dir, database_url), options.parent, job)
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
    data_dir.make_own()
    start_log(data_dir.supervisor_log)
    lock_file = lock(data_dir, parent)
    if lock_file is None:
        return
    engine = open_database(os.environ.get(DATABASE_VARIABLE) or data_dir.path)
    supervisor = Supervisor(engine, data_dir, job)
    failures = 0
    while not orphaned(parent):
        try:
            supervisor.turn()
            failures = 0
        except EXPECTED as error:
            log.error("%s", error)
            failures += 1
            if failures == GIVES_UP_AFTER:
                raise
            time.sleep(1)
        time.sleep(TURN)
    log.info("the server has exited; running jobs continue")


if __name__ == "__main__":
    sys.exit(main())
