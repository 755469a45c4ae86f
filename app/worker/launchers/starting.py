"""How queued runs come to have a process: on this machine, one for each free slot."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine

from app.worker import process
from app.worker.devices import slots
from app.worker.devices.holds import taken_here
from app.worker.devices.inventory import left_to_others, serving_hosts
from app.worker.job import EXIT_NOT_CLAIMED
from app.worker.launchers.launcher import JobNeeds
from app.worker.launchers.this_machine import ThisMachine, pid_of
from app.worker.owners.place import Place, boot_id
from app.worker.recovery import Running, bury, did_not_start, finish, running
from app.worker.standby import Standby
from opd.devices.gpus import gpu_count
from opd.errors import ErrorKind
from storage.data_dir import DataDir
from storage.queue import jobs, placing
from storage.queue.failure import Failure

log = logging.getLogger(__name__)
RESERVED_AGAIN = 2.0  # seconds


class Starting(Protocol):
    """Called in every turn of the supervisor."""

    def bury(self) -> None:
        """Records how jobs have ended that could not do so themselves."""

    def reapable(self, pid: int) -> bool:
        """Whether a process is a child, whose end is told by its exit code."""

    def start(self, queued: Sequence[dict[str, Any]]) -> None:
        """Sees to queued runs that no command line will run itself: rows of `next_queued`."""


@dataclass(frozen=True)
class _Child:
    job: str
    pid: int
    slot: str


class LocalStarting:
    """Keeps a process with its libraries loaded, too."""

    def __init__(self, engine: Engine, data_dir: DataDir, job: Sequence[str]) -> None:
        self._engine = engine
        self._data_dir = data_dir
        self._job = job
        self._machine = ThisMachine()
        self._children: dict[str, _Child] = {}  # by run
        self._reserved: dict[str, float] = {}  # when it was last tried
        self._standby = Standby(data_dir, job)

    def bury(self) -> None:
        states = self._machine.states([child.job for child in self._children.values()])
        codes = {i: states[child.job].exit_code for i, child in self._children.items()}
        ended = {i: code for i, code in codes.items() if code is not None}
        if not ended:
            return
        here = Place.of(self._data_dir)  # another host may have given out the same process id
        mine = [run for run in running(self._engine) if here.judges(run.owner)]
        owned = {(run.id, run.owner.pid): run for run in mine}
        for run_id, code in ended.items():
            child = self._children.pop(run_id)
            self._machine.forget(child.job)
            run = owned.get((run_id, child.pid))
            if run is not None:
                bury(self._engine, self._data_dir, run, code)
            elif code not in (0, EXIT_NOT_CLAIMED):
                self._never_claimed(run_id, child, code)

    def reapable(self, pid: int) -> bool:
        return any(child.pid == pid for child in self._children.values())

    def start(self, queued: Sequence[dict[str, Any]]) -> None:
        if queued:
            self._start_on_free_slots(queued)
        self._standby.turn()

    def _start_on_free_slots(self, queued: Sequence[dict[str, Any]]) -> None:
        taken = set(taken_here(self._engine))
        taken |= {child.slot for child in self._children.values()}
        gpus = gpu_count()
        hosts = serving_hosts(self._engine) if self._data_dir.host else []
        for row in queued:
            if left_to_others(hosts, row["device"], row["devices"]):
                continue
            slot = slots.choose(row["device"], taken, gpus, count=row["devices"])
            if row["id"] in self._children:
                self._reserves(row["id"])
            elif slot is not None and self._reserves(row["id"]):
                self._try_to_start(row["id"], slot)
                taken.add(slot)

    def _reserves(self, run_id: str) -> bool:
        """Whether no other host that shares the queue is about to start it."""
        if not self._data_dir.host:
            return True
        now = time.monotonic()
        if now - self._reserved.get(run_id, -RESERVED_AGAIN) < RESERVED_AGAIN:
            return run_id in self._children
        self._reserved[run_id] = now
        return placing.reserve_for_host(self._engine, run_id, boot_id())

    def _try_to_start(self, run_id: str, slot: str) -> None:
        """A run whose process cannot be started, or whose log cannot be opened, fails with that."""
        try:
            self._children[run_id] = self._start(run_id, slot)
        except OSError as error:
            cause = f"{error.filename or 'its process'}: {error.strerror or error}"
            self._fail(run_id, slot, f"the job did not start: {cause}")

    def _start(self, run_id: str, slot: str) -> _Child:
        """The process claims the run itself. Raises OSError."""
        run_log = self._data_dir.run(run_id).log
        run_log.parent.mkdir(parents=True, exist_ok=True)
        run_log.open("ab").close()
        handed = self._standby.take(run_id, slot, run_log)
        if handed is not None:
            job = self._machine.adopt(run_id, handed, run_log)
        else:
            command = [*self._job, run_id, "--data-dir", str(self._data_dir), "--slot", slot]
            job = self._machine.submit(run_id, command, JobNeeds(), run_log)
        pid = pid_of(job)
        log.info("%s: process %d on %s", run_id, pid, slot)
        return _Child(job, pid, slot)

    def _never_claimed(self, run_id: str, child: _Child, code: int) -> None:
        """A job that could not even start must not be started again and again."""
        if run_id not in {row["id"] for row in jobs.next_queued(self._engine)}:
            return
        self._fail(run_id, child.slot, did_not_start(self._data_dir, run_id, code))

    def _fail(self, run_id: str, slot: str, text: str) -> None:
        fail_queued(self._engine, self._data_dir, run_id, slot, text)


def fail_queued(engine: Engine, data_dir: DataDir, run_id: str, slot: str, text: str) -> None:
    """Ends a queued run that has no process."""
    me = process.this_process(data_dir)
    attempt = jobs.claim(engine, run_id, slot, me)
    if attempt is None:
        return
    run = Running(run_id, attempt, slot, me, None, None, None, None, "")
    finish(engine, data_dir, run, "failed", Failure(ErrorKind.ERROR, text))
