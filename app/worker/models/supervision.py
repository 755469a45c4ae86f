"""The supervisor's side of the processes that answer requests: starts each when asked, and says
when it has died."""

import logging
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import Engine

from app.worker import process
from app.worker.files.kept import sweep
from app.worker.logs import last_line
from app.worker.owners.place import Place, boot_id
from app.worker.owners.standing import LOST_AFTER
from opd.errors import ErrorKind
from storage.data_dir import DataDir
from storage.locks import held, take
from storage.queue import requests
from storage.queue.hosts import read_hosts
from storage.queue.jobs import Owner

log = logging.getLogger(__name__)
MODEL_PROCESS = process.program("app.worker.models.process")
FILE_PROCESS = process.program("app.worker.files.process")
SWEEP_EVERY = 600.0  # seconds
AGAIN_AFTER = 2.0  # seconds between two starts
EXIT_SECONDS = 2.0  # between the death of a process and that of its last thread


class ModelProcessSupervisor:
    """`turn()` is called again and again; it keeps nothing that another one could not find."""

    name = "the model process"
    files = False  # whether it answers the requests for files, or all others
    hint = "Load smaller models, or close other programs that use memory."

    def __init__(
        self, engine: Engine, data_dir: DataDir, command: Sequence[str] = MODEL_PROCESS
    ) -> None:
        self._engine = engine
        self._data_dir = data_dir
        self._command = command
        self._lock, self._log = data_dir.model_lock, data_dir.model_log
        self._child: subprocess.Popen[bytes] | None = None
        self._started = -AGAIN_AFTER

    def turn(self) -> None:
        gone = self._abandoned()
        if gone and self._child is not None:  # its exit, which tells more, may be a moment away
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(EXIT_SECONDS)
        self._reap()
        for name in set(gone) & set(self._abandoned()):
            self._end(name, f"{self.name} is gone")
        waiting = self._waiting()
        rested = time.monotonic() - self._started > AGAIN_AFTER
        if waiting and self._child is None and rested and not self._served():
            try:
                self._start()
            except OSError as error:
                cause = f"{error.filename or 'its process'}: {error.strerror or error}"
                self._end(waiting[0], f"{self.name} cannot be started: {cause}")

    def _waiting(self) -> list[str]:
        return requests.waiting(self._engine, files=self.files, boot=boot_id())

    def _lives(self, owner: Owner) -> bool:
        """One of another place lives as long as somebody holds the lock of this kind of process;
        one of another host, as long as its supervisor does, which would tell of its end."""
        if Place.of(self._data_dir).judges(owner):
            return process.alive(owner)
        if not self._data_dir.host or owner.boot == boot_id():
            return self._served()
        return any(h.boot == owner.boot and h.age < LOST_AFTER for h in read_hosts(self._engine))

    def _reap(self) -> None:
        """A child that ended badly takes its question with it, or the one it never came to."""
        if self._child is None or (code := self._child.poll()) is None:
            return
        pid, self._child = self._child.pid, None
        if code == 0:
            return
        cause = process.cause_of_exit(code, whose=f"{self.name} ")
        theirs = self._abandoned()
        for name in theirs or self._waiting()[:1]:
            self._end(name, cause)
        log.warning("%s, %d: %s", self.name, pid, cause)

    def _end(self, name: str, cause: str) -> None:
        tail = last_line(self._log)
        text = f"{cause}; its last line: {tail}" if tail else cause
        killed = "SIGKILL" in cause
        kind = ErrorKind.KILLED if killed else ErrorKind.ERROR
        hint = self.hint if killed else ""
        requests.fail(self._engine, name, text, kind=kind, hint=hint)

    def _abandoned(self) -> list[str]:
        return requests.abandoned(self._engine, self._lives, files=self.files)

    def _served(self) -> bool:
        """Whether a process of another supervisor holds the lock."""
        return held(self._lock)

    def _start(self) -> None:
        self._started = time.monotonic()
        self._log.unlink(missing_ok=True)
        command = [*self._command, "--data-dir", str(self._data_dir)]
        self._child = process.start_detached(command, log=self._log)
        log.info("%s: %d", self.name, self._child.pid)


class FileProcessSupervisor(ModelProcessSupervisor):
    """Of the process that makes files; files that are due are removed while there is none."""

    name = "the file process"
    files = True
    hint = "Close other programs that use memory."

    def __init__(
        self, engine: Engine, data_dir: DataDir, command: Sequence[str] = FILE_PROCESS
    ) -> None:
        super().__init__(engine, data_dir, command)
        self._lock, self._log = data_dir.file_lock, data_dir.file_log
        self._swept = -SWEEP_EVERY

    def turn(self) -> None:
        super().turn()
        due = time.monotonic() - self._swept > SWEEP_EVERY
        if due and self._child is None and (lock := take(self._lock)) is not None:
            with lock:  # so that none on another host begins meanwhile
                self._swept = time.monotonic()
                sweep(self._engine, self._data_dir)
