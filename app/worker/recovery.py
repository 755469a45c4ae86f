"""Running runs as seen from outside: which are dead, why, and how what is left of them ends."""

import logging
import signal
import time
from dataclasses import dataclass

from sqlalchemy import Engine

from app.worker import process
from app.worker.attempts.checkpoints import discard_checkpoints, sweep
from app.worker.errors import redact
from app.worker.job import EXIT_CUT_OFF, EXIT_UNRECORDED
from app.worker.logs import last_line
from app.worker.owners.place import Place, host_of
from app.worker.owners.standing import LOST_AFTER, Beat, Judge, Standing
from app.worker.run_files.choice import run_files
from app.worker.webhook import notification
from opd.errors import ErrorKind, UserError
from opd.types import RunStatus
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.queue.failure import Failure
from storage.queue.jobs import Owner
from storage.write.records import forget_checkpoints

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Running:
    """A run that the database calls running."""

    id: str
    attempt: int
    slot: str
    owner: Owner
    heartbeat_at: float | None
    age: float | None  # of the heartbeat, in seconds by the database's clock
    cancel_mode: str | None
    cancel_age: float | None  # of its request to stop, likewise
    phase: str

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.attempt

    @property
    def beat(self) -> Beat:
        return Beat(self.heartbeat_at, self.age)

    def family(self, place: Place) -> list[int]:
        """Its processes, where they are of this place."""
        mark = place.mark(self.id, self.attempt)
        if self.owner.place is None:  # of a version that marked without the directory
            mark = f"{self.id}:{self.attempt}"
        return process.family(self.owner, mark, place)


def running(engine: Engine) -> list[Running]:
    names = Running.__dataclass_fields__
    return [Running(**{n: row[n] for n in names}) for row in jobs.running(engine)]


def look(engine: Engine, data_dir: DataDir, run: Running, judge: Judge) -> Standing:
    """Whether the run's owner lives; the end of one that does not is recorded."""
    standing = judge.standing(run.key, run.owner, run.beat)
    if standing == "gone":
        bury(engine, data_dir, run)
    elif standing == "lost":
        bury_lost(engine, data_dir, run)
    return standing


def bury(engine: Engine, data_dir: DataDir, run: Running, exit_code: int | None = None) -> None:
    """Records the end of a run whose process has died, after ending what that process left.

    `exit_code` as subprocess reports it; None where nobody saw it end. Died by a signal or unseen:
    interrupted. Ended by itself with an error that it could not record: failed.
    """
    end_family(run, data_dir)
    text = "the job's process is gone" if exit_code is None else process.cause_of_exit(exit_code)
    by_itself = exit_code is not None and exit_code >= 0
    kind = ErrorKind.ERROR if by_itself else ErrorKind.KILLED
    if exit_code == EXIT_UNRECORDED:
        kind = ErrorKind.DISK_FULL
    if exit_code == EXIT_CUT_OFF:
        kind, by_itself = ErrorKind.DATABASE_GONE, False
    tail = last_line(data_dir.run(run.id).log)
    text = redact(f"{text}; last line of the log: {tail}" if tail else text)
    status: RunStatus = "failed" if by_itself else "interrupted"
    settle(engine, data_dir, run, status, Failure(kind, text))


def bury_hung(engine: Engine, data_dir: DataDir, run: Running, seconds: float) -> None:
    """Ends a job that lives but has stopped telling so."""
    end_family(run, data_dir)
    text = f"no heartbeat for {seconds:.0f} s; the process was ended"
    settle(engine, data_dir, run, "interrupted", Failure(ErrorKind.HUNG, text))


def bury_lost(engine: Engine, data_dir: DataDir, run: Running) -> None:
    """Takes a run from an owner of another place of which nothing was heard; nothing is ended or
    removed, since its process may live: it will find that the run is no longer its own."""
    if run.cancel_mode == "discard":
        forget_checkpoints(engine, run.id)
    host = host_of(run.owner) or "another host"
    text = f"no heartbeat from process {run.owner.pid} on {host} for over {LOST_AFTER:.0f} s"
    status: RunStatus = "cancelled" if run.cancel_mode else "interrupted"
    failure = None if run.cancel_mode else Failure(ErrorKind.LOST, text)
    finish(engine, data_dir, run, status, failure)


def settle(
    engine: Engine, data_dir: DataDir, run: Running, status: RunStatus, failure: Failure
) -> None:
    """Records the end of a run whose process is no more: cancelled where that was asked for."""
    if run.cancel_mode:
        settle_cancel(engine, data_dir, run)
        return
    sweep(engine, data_dir, run.id, run.attempt)
    finish(engine, data_dir, run, status, failure)


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


def end_family(run: Running, data_dir: DataDir, patience: float = 2.0) -> None:
    """Kills every process of the job that is of this place, waits until they are gone, and sends
    what the job could not of its log."""
    until, place = time.monotonic() + patience, Place.of(data_dir)
    while (left := run.family(place)) and time.monotonic() < until:
        process.send(left, signal.SIGKILL)
        time.sleep(0.02)
    if left:
        log.error("%s: processes %s cannot be ended", run.id, left)
    run_files(data_dir).send_rest(run.id, run.attempt)


def bury_dead(engine: Engine, data_dir: DataDir, judge: Judge) -> None:
    """Marks every run whose owner is gone; for a command line with no supervisor beside it."""
    for run in running(engine):
        look(engine, data_dir, run, judge)


def settled(engine: Engine, data_dir: DataDir, run_id: str) -> None:
    """Returns once the run is not running, where that is only because nobody has recorded its end.

    Takes `CONFIRMED_AFTER` seconds where the owner's heartbeat is old. Raises UserError where the
    owner lives.
    """
    judge = Judge(data_dir)
    while entry := next((run for run in running(engine) if run.id == run_id), None):
        if look(engine, data_dir, entry, judge) == "living":
            host = "" if judge.place.judges(entry.owner) else f" on {host_of(entry.owner)}"
            raise UserError(f"is running (process {entry.owner.pid}{host})", where=run_id)
        time.sleep(0.2)
