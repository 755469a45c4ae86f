"""The supervisor's side of the model process: starts it when asked, and says when it has died."""

import logging
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import Engine

from app.worker import process
from app.worker.logs import last_line
from opd.errors import ErrorKind
from storage.data_dir import DataDir
from storage.locks import held
from storage.queue import requests

log = logging.getLogger(__name__)
MODEL_PROCESS = (sys.executable, "-m", "app.worker.models.process")
AGAIN_AFTER = 2.0  # seconds between two starts
EXIT_SECONDS = 2.0  # between the death of a process and that of its last thread


class ModelProcessSupervisor:
    """`turn()` is called again and again; it keeps nothing that another one could not find."""

    def __init__(
        self, engine: Engine, data_dir: DataDir, command: Sequence[str] = MODEL_PROCESS
    ) -> None:
        self._engine = engine
        self._data_dir = data_dir
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._started = -AGAIN_AFTER

    def turn(self) -> None:
        gone = requests.abandoned(self._engine, process.alive)
        if gone and self._child is not None:  # its exit, which tells more, may be a moment away
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(EXIT_SECONDS)
        self._reap()
        for name in set(gone) & set(requests.abandoned(self._engine, process.alive)):
            self._end(name, "the model process is gone")
        waiting = requests.waiting(self._engine)
        rested = time.monotonic() - self._started > AGAIN_AFTER
        if waiting and self._child is None and rested and not self._served():
            self._start()

    def _reap(self) -> None:
        """A child that ended badly takes its question with it, or the one it never came to."""
        if self._child is None or (code := self._child.poll()) is None:
            return
        pid, self._child = self._child.pid, None
        if code == 0:
            return
        cause = process.cause_of_exit(code).replace("the job's process", "the model process")
        theirs = requests.abandoned(self._engine, process.alive)
        for name in theirs or requests.waiting(self._engine)[:1]:
            self._end(name, cause)
        log.warning("model process %d: %s", pid, cause)

    def _end(self, name: str, cause: str) -> None:
        tail = last_line(self._data_dir.model_log)
        text = f"{cause}; its last line: {tail}" if tail else cause
        killed = "SIGKILL" in cause
        kind = ErrorKind.KILLED if killed else ErrorKind.ERROR
        hint = "Load smaller models, or close other programs that use memory." if killed else ""
        requests.fail(self._engine, name, text, kind=kind, hint=hint)

    def _served(self) -> bool:
        """Whether a model process of another supervisor holds the lock."""
        return held(self._data_dir.model_lock)

    def _start(self) -> None:
        self._started = time.monotonic()
        self._data_dir.model_log.unlink(missing_ok=True)
        command = [*self._command, "--data-dir", str(self._data_dir)]
        self._child = process.start_detached(command, log=self._data_dir.model_log)
        log.info("model process %d", self._child.pid)
