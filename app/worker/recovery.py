"""Running runs as seen from outside: which are dead, why, and how what is left of them ends."""

import logging
import signal
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from app.worker import process
from app.worker.errors import redact
from app.worker.job import EXIT_UNRECORDED, discard_checkpoints, sweep
from app.worker.logs import last_line
from app.worker.webhook import notification
from opd.errors import ErrorKind
from opd.types import RunStatus
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.queue.failure import Failure
from storage.queue.jobs import Owner

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """A run that the database calls running."""

    id: str
    attempt: int
    slot: str
    owner: Owner
    heartbeat_at: Any
    cancel_mode: str | None
    cancel_at: Any

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.attempt

    def family(self) -> list[int]:
        return process.family(self.owner, f"{self.id}:{self.attempt}")


def running(engine: Engine) -> list[Running]:
    names = Running.__dataclass_fields__
    return [Running(**{n: row[n] for n in names}) for row in jobs.running(engine)]


def bury(engine: Engine, data_dir: DataDir, run: Running, exit_code: int | None = None) -> None:
    """Records the end of a run whose process has died, after ending what that process left.

    `exit_code` as subprocess reports it; None where nobody saw it end. Died by a signal or unseen:
    interrupted. Ended by itself with an error that it could not record: failed.
    """
    end_family(run)
    if run.cancel_mode:
        settle_cancel(engine, data_dir, run)
        return
    sweep(engine, data_dir, run.id, run.attempt)
    text = "the job's process is gone" if exit_code is None else process.cause_of_exit(exit_code)
    by_itself = exit_code is not None and exit_code >= 0
    kind = ErrorKind.ERROR if by_itself else ErrorKind.KILLED
    if exit_code == EXIT_UNRECORDED:
        kind = ErrorKind.DISK_FULL
    tail = last_line(data_dir.run(run.id).log)
    text = redact(f"{text}; last line of the log: {tail}" if tail else text)
    status: RunStatus = "failed" if by_itself else "interrupted"
    finish(engine, data_dir, run, status, Failure(kind, text))


def bury_hung(engine: Engine, data_dir: DataDir, run: Running, seconds: float) -> None:
    """Ends a job that lives but has stopped telling so."""
    end_family(run)
    if run.cancel_mode:
        settle_cancel(engine, data_dir, run)
        return
    sweep(engine, data_dir, run.id, run.attempt)
    text = f"no heartbeat for {seconds:.0f} s; the process was ended"
    finish(engine, data_dir, run, "interrupted", Failure(ErrorKind.HUNG, text))


def settle_cancel(engine: Engine, data_dir: DataDir, run: Running) -> None:
    """Marks a run cancelled whose process is no more."""
    if run.cancel_mode == "discard":
        discard_checkpoints(engine, data_dir, run.id)
    else:
        sweep(engine, data_dir, run.id, run.attempt)
    finish(engine, data_dir, run, "cancelled", None)


def did_not_start(data_dir: DataDir, run_id: str, exit_code: int) -> str:
    """Of a job that ended before it could claim its run."""
    tail = last_line(data_dir.run(run_id).log)
    return redact(f"the job did not start: {process.cause_of_exit(exit_code)}; {tail}")


def finish(
    engine: Engine, data_dir: DataDir, run: Running, status: RunStatus, failure: Failure | None
) -> None:
    """Records the end and tells of it, unless the attempt has ended otherwise meanwhile."""
    done = jobs.finish(engine, run.id, run.attempt, status, failure)
    if done:
        notification.notify(engine, data_dir, run.id)
        text = f"{status}. {failure.text}" if failure else status
        log.info("%s, attempt %d: %s", run.id, run.attempt, text)


def end_family(run: Running, patience: float = 2.0) -> None:
    """Kills every process of the job and waits until they are gone."""
    until = time.monotonic() + patience
    while (left := run.family()) and time.monotonic() < until:
        process.send(left, signal.SIGKILL)
        time.sleep(0.02)
    if left:
        log.error("%s: processes %s cannot be ended", run.id, left)


def bury_dead(engine: Engine, data_dir: DataDir) -> None:
    """Marks every run whose owner is gone; for a command line with no supervisor beside it."""
    for run in running(engine):
        if not process.alive(run.owner):
            bury(engine, data_dir, run)
