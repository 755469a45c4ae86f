"""Queued runs as jobs of a cluster: each submitted once, and followed until nothing is left of it.

The controller keeps nothing that a new one could not find again: `run.cluster_job` names the job,
and its launcher finds one by its key that was submitted and not yet written down.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from app.version import program_version
from app.worker import process
from app.worker.errors import describe, redact
from app.worker.job import EXIT_NOT_CLAIMED
from app.worker.launchers.launcher import (
    PATIENCE,
    QUESTIONS,
    ClusterSilentError,
    JobNeeds,
    Launcher,
    State,
)
from app.worker.logs import last_line
from app.worker.recovery import Running, finish, settle
from opd.config.run import RunConfig, parse
from opd.errors import ErrorKind, UserError
from opd.types import RunStatus
from storage.data_dir import DataDir
from storage.queue import jobs, placing
from storage.queue.failure import Failure
from storage.queue.placing import Placed

log = logging.getLogger(__name__)
TURN = 1.0  # seconds between two questions to the cluster
TURN_SILENT = 10.0  # while it does not answer
SUBMITTED_WITHIN = QUESTIONS * PATIENCE + 15.0  # seconds; no submission takes longer
QUIET = 8.0  # seconds without a heartbeat, of a job that its launcher says has ended
STOPS_BY_ITSELF = 20.0  # seconds in which a job ends whose run has ended, or is cancelled
AGAIN = 60.0  # seconds between two requests to stop one job


class ClusterStarting:
    """The controller on a thread of its own: a cluster may take long to answer."""

    def __init__(
        self, engine: Engine, data_dir: DataDir, job: Sequence[str], launcher: Launcher
    ) -> None:
        self._controller = Controller(engine, data_dir, job, launcher)
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def bury(self) -> None:
        """Raises what the controller has ended with; the next turn starts it again."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def reapable(self, _pid: int) -> bool:
        return False

    def start(self, _queued: Sequence[dict[str, Any]]) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._follow, name="cluster", daemon=True)
            self._thread.start()

    def _follow(self) -> None:
        try:
            while True:
                time.sleep(self._controller.turn())
        except (UserError, OSError) as error:
            self._error = error


class Controller:
    """`turn()` looks once at everything; several of one database get along."""

    def __init__(
        self, engine: Engine, data_dir: DataDir, job: Sequence[str], launcher: Launcher
    ) -> None:
        self._engine = engine
        self._data_dir = data_dir
        self._job = job
        self._launcher = launcher
        self._checked = False
        self._silent = ""
        self._since: dict[tuple[object, ...], float] = {}
        self._seen: set[tuple[object, ...]] = set()
        self._stopped: dict[str, float] = {}

    def turn(self) -> float:
        """The seconds until the next one."""
        try:
            try:
                self._look()
            except ClusterSilentError as error:
                self._log_silent(error)
                self._tell_all(error.message)
                return TURN_SILENT
        except SQLAlchemyError as error:  # of either: the database is as silent as a cluster
            self._log_silent(error)
            return TURN_SILENT
        if self._silent:
            log.info("%s answers again", self._launcher.title)
        self._silent = ""
        return TURN

    def _look(self) -> None:
        if not self._checked:
            self._launcher.check()
            self._checked = True
        rows = placing.placed(self._engine, self._launcher.name)
        job_ids = {row.id: str(row.job).partition(":")[2] for row in rows}
        states = self._launcher.states(sorted(set(job_ids.values()))) if job_ids else {}
        for row in rows:
            state = states[job_ids[row.id]]
            if state.key and row.id not in state.key:  # a cluster that lost its memory counts anew
                state = State("unknown")
            self._follow(row, job_ids[row.id], state)
        self._since = {key: at for key, at in self._since.items() if key in self._seen}
        self._seen.clear()
        for row in placing.unplaced(self._engine, self._launcher.name):
            self._submit(row)

    def _log_silent(self, error: Exception) -> None:
        text = describe(error).text
        if text != self._silent:
            log.error("%s", text)
        self._silent = text

    def _tell_all(self, text: str) -> None:
        name = self._launcher.name
        for row in (*placing.placed(self._engine, name), *placing.unplaced(self._engine, name)):
            self._tell(row, text)

    def _submit(self, row: Placed) -> None:
        if row.job is not None and (row.age is None or row.age < SUBMITTED_WITHIN):
            return  # another controller is about to
        key = f"opd-{row.id}-{row.attempt + 1}-{math.floor(row.queued_at * 1000) % 10**8}"
        name = placing.submitting(self._launcher.name, key)
        if not placing.reserve(self._engine, row, name):
            return
        folder = self._data_dir.run(row.id)
        grace = ("--grace", f"{self._launcher.grace:g}")
        directory = ("--data-dir", str(self._data_dir))
        options = (*directory, "--cluster-job", name, "--version", program_version(), *grace)
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            job = self._launcher.submit(
                key, [*self._job, row.id, *options], needs_of(parse(row.config)), folder.log
            )
        except ClusterSilentError:  # it may have been submitted nevertheless: found by its key
            raise
        except UserError as error:
            self._end(row, name, Failure(ErrorKind.BAD_INPUT, describe(error).text), "failed")
            return
        stored = f"{self._launcher.name}:{job}"
        if placing.record(self._engine, row.id, name, stored):
            log.info("%s: submitted as %s", row.id, job)
        elif placing.job_of(self._engine, row.id) != stored:  # nor has the job claimed it already
            log.warning("%s: job %s is one too many", row.id, job)
            self._stop(job)

    def _follow(self, row: Placed, job: str, state: State) -> None:
        match row.status, state.phase:
            case "queued", "waiting":
                self._tell(row, state.why)
            case "queued", "running":
                self._tell(row, f"starts on {', '.join(state.hosts)}" if state.hosts else state.why)
            case "queued", "ended":
                self._end(row, str(row.job), *self._cause(row, state))
            case "running", _ if row.claimed:
                self._follow_running(row, job, state)
            case _, "ended" | "unknown":
                placing.forget(self._engine, row.id, str(row.job))
                self._stopped.pop(job, None)
            case _:
                patience = STOPS_BY_ITSELF if row.claimed else 0.0
                if self._since_seen(row, "over") >= patience:
                    self._stop(job)

    def _follow_running(self, row: Placed, job: str, state: State) -> None:
        """The lease counts: a job that is said to have ended is believed to once it is silent."""
        if state.phase == "ended":
            if self._since_seen(row, row.heartbeat_at) >= QUIET:
                self._bury(row, state)
        elif row.cancel_mode is not None and self._since_seen(row, "cancel") >= STOPS_BY_ITSELF:
            self._stop(job)

    def _bury(self, row: Placed, state: State) -> None:
        failure, status = self._cause(row, state)
        run = self._running(row, row.attempt)
        settle(self._engine, self._data_dir, run, status, failure)

    def _end(self, row: Placed, name: str, failure: Failure, status: RunStatus) -> None:
        """Ends a queued run whose job never claimed it, unless it does so just now."""
        me = process.this_process(self._data_dir)
        attempt = jobs.claim(self._engine, row.id, "none", me, name, (name,))
        if attempt is not None:
            run = self._running(row, attempt)
            finish(self._engine, self._data_dir, run, status, failure)
            placing.forget(self._engine, row.id, name)

    def _running(self, row: Placed, attempt: int) -> Running:
        me = row.owner or process.this_process(self._data_dir)
        beat = (row.heartbeat_at, row.age)
        return Running(row.id, attempt, row.slot, me, *beat, row.cancel_mode, None, "")

    def _cause(self, row: Placed, state: State) -> tuple[Failure, RunStatus]:
        """Ended by itself with an error: failed. By the cluster, or by a signal: interrupted."""
        code = state.exit_code
        again = row.status == "running" and code == EXIT_NOT_CLAIMED
        by_itself = code is not None and code >= 0 and state.kind is None and not again
        text = "started the job again, which ended the first" if again else state.why
        if not text and code is not None:
            text = process.cause_of_exit(code, "the job ")
        if row.status == "queued":
            text = f"the job did not start: {text}"
        tail = last_line(self._data_dir.run(row.id).log)
        text = redact(f"{self._launcher.title}: {text}" + (f"; {tail}" if tail else ""))
        kind = state.kind or (ErrorKind.ERROR if by_itself else ErrorKind.KILLED)
        return Failure(kind, text), "failed" if by_itself else "interrupted"

    def _tell(self, row: Placed, text: str) -> None:
        placing.tell(self._engine, row, f"{self._launcher.title}: {text}")

    def _stop(self, job: str) -> None:
        now = time.monotonic()
        if now - self._stopped.get(job, -AGAIN) >= AGAIN:
            self._stopped[job] = now
            log.info("%s is stopped", job)
            self._launcher.stop(job)

    def _since_seen(self, row: Placed, what: object) -> float:
        """Seconds since this was first seen of the attempt."""
        key, now = (row.id, row.attempt, what), time.monotonic()
        self._seen.add(key)
        return now - self._since.setdefault(key, now)


def needs_of(config: RunConfig) -> JobNeeds:
    """What a run's job needs. Raises UserError for a device of a certain machine."""
    device = config.device
    if device not in ("auto", "cpu", "cuda"):
        text = f"must be auto, cpu or cuda where a cluster gives out its GPUs (got {device})"
        raise UserError(text, where="device")
    here, resources = config.devices // config.resources.nodes, config.resources
    return JobNeeds(
        gpus=0 if device == "cpu" else here,
        gpus_if_any=device == "auto",
        processes=here,
        **{name: getattr(resources, name) for name in type(resources).model_fields},
    )
