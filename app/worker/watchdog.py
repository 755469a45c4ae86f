"""Keeps a supervisor beside the server: started with it, started again when it dies."""

import json
import logging
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from app.worker import process
from app.worker.errors import redact
from app.worker.logs import last_line
from app.worker.owners.place import Place
from storage import locks
from storage.data_dir import DataDir

log = logging.getLogger(__name__)
SUPERVISOR = process.program("app.worker.supervisor")
LOOK_EVERY = 0.5  # seconds
ENDS, WITHIN = 3, 60.0  # so many ends within so many seconds: it is not started at once again
AGAIN_EVERY = 30.0  # seconds between two starts from then on
SETTLED = 15.0  # seconds after which one that runs has no trouble any more


class Watchdog:
    """`trouble` says why no supervisor stays; "" while one does, or is about to."""

    def __init__(
        self, data_dir: DataDir, environment: Mapping[str, str], command: Sequence[str] = SUPERVISOR
    ) -> None:
        self.trouble = ""
        self._data_dir = data_dir
        self._environment = environment
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None
        self._output: process.CapturedOutput | None = None
        self._ends: list[float] = []
        self._started = 0.0
        self.start()

    def start(self) -> None:
        """Detached: Ctrl-C in the terminal is the server's to handle."""
        self._started = time.monotonic()
        arguments = ["--data-dir", str(self._data_dir), "--parent", str(os.getpid())]
        try:
            self._child = process.start_detached(
                [*self._command, *arguments], environment=self._environment
            )
        except OSError as error:
            self._child = None
            self._ended(f"it cannot be started: {error.strerror or error}", "")
            return
        self._output = process.CapturedOutput(self._child)

    def look(self) -> None:
        """Called again and again."""
        now = time.monotonic()
        if self._child is not None:
            if (code := self._child.poll()) is None:
                if self.trouble and now - self._started > SETTLED:
                    self._recovered()
                return
            self._child = None
            self._ended(*self._cause(code))
        if not self.trouble or now - self._started > AGAIN_EVERY:
            self.start()

    def stop(self) -> None:
        """Ends the supervisor, which leaves running jobs alone."""
        _note(self._data_dir, "")
        if self._child is None:
            return
        self._child.terminate()
        try:
            self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def _cause(self, code: int) -> tuple[str, str]:
        """In a line, and all that the supervisor said."""
        assert self._output is not None
        line = self._output.last_line() or last_line(self._data_dir.supervisor_log)
        ended = process.cause_of_exit(code, whose="")
        return redact(f"{line} ({ended})" if line else ended), redact(self._output.text())

    def _ended(self, cause: str, text: str) -> None:
        now = time.monotonic()
        self._ends = [end for end in self._ends if now - end <= WITHIN] + [now]
        if len(self._ends) < ENDS and not self.trouble:
            log.warning("the supervisor ended: %s; starting another", cause)
            return
        before, self.trouble = self.trouble, f"the supervisor, which starts runs, ended: {cause}"
        if self.trouble != before:
            log.error("%s. It is started again every %.0f s.\n%s", self.trouble, AGAIN_EVERY, text)
            _note(self._data_dir, self.trouble)

    def _recovered(self) -> None:
        self.trouble, self._ends = "", []
        log.warning("the supervisor runs again")
        _note(self._data_dir, "")


@contextmanager
def supervised(
    data_dir: DataDir, environment: Mapping[str, str], command: Sequence[str] = SUPERVISOR
) -> Iterator[Watchdog]:
    """A supervisor for as long as the block lasts. It leaves jobs running when it is ended."""
    over = threading.Event()
    watchdog = Watchdog(data_dir, environment, command)

    def watch() -> None:
        while not over.wait(LOOK_EVERY):
            watchdog.look()

    thread = threading.Thread(target=watch, name="watchdog", daemon=True)
    thread.start()
    try:
        yield watchdog
    finally:
        over.set()
        thread.join()
        watchdog.stop()


def why_nothing_starts(data_dir: DataDir) -> str:
    """Why queued runs do not start, where it is not for want of a device; for a process beside the
    server's. "" where a supervisor is at work."""
    if locks.held(data_dir.supervisor_lock):
        return ""
    try:
        note = json.loads(data_dir.supervisor_note.read_text(encoding="utf-8"))
        ours = note["place"] == Place.of(data_dir).text
        if not ours or process.owner_of(note["pid"]) is not None:
            return str(note["trouble"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return "no supervisor is at work in this data directory; start one with: opd serve"


def _note(data_dir: DataDir, trouble: str) -> None:
    """For the command line; where it cannot be written, that only says less."""
    with suppress(OSError):
        if not trouble:
            data_dir.supervisor_note.unlink(missing_ok=True)
            return
        note = {"pid": os.getpid(), "place": Place.of(data_dir).text, "trouble": trouble}
        data_dir.supervisor_note.write_text(json.dumps(note), encoding="utf-8")
