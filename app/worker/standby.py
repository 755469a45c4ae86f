"""A job process that waits with its libraries loaded, so that a run starts at once.

The supervisor keeps one, and hands it the next run on its standard input. Its output is the run's
log from then on. It has no GPU and no file of a run before, and ends with its supervisor, when its
input does. One whose code has changed since is replaced.
"""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from app.worker import process
from storage.data_dir import DataDir

log = logging.getLogger(__name__)
VARIABLE = "OPD_STANDBY"  # 0: none is kept
FIRST_AFTER = 5.0  # seconds after the supervisor's start
AGAIN_AFTER = 5.0  # seconds after a run's start, which loads its models first
LONGEST_PAUSE = 600.0  # seconds; it doubles while the process ends by itself
LOOK_EVERY = 30.0  # seconds between two looks at the code on the disk
LEAST_MEMORY = 2e9  # bytes that are free on the machine
PACKAGES = ("app", "opd", "storage")
CodeVersion = tuple[int, int, frozenset[str]]


class Standby:
    """`take()` hands over the process that waits, if there is one; `turn()` starts another."""

    def __init__(self, data_dir: DataDir, job: Sequence[str], *, kept: bool | None = None) -> None:
        self._data_dir = data_dir
        self._command = [*job, "--standby", "--data-dir", str(data_dir)]
        self._kept = os.environ.get(VARIABLE) != "0" if kept is None else kept
        self._child: subprocess.Popen[bytes] | None = None
        self._output: process.CapturedOutput | None = None
        self._failures = 0
        self._code: CodeVersion | None = None
        self._next = time.monotonic() + FIRST_AFTER
        self._looked = 0.0

    def take(self, run_id: str, slot: str, run_log: Path) -> subprocess.Popen[bytes] | None:
        """The process that now runs this run; None where none waits, or not with this code."""
        self._next = max(self._next, time.monotonic() + AGAIN_AFTER)
        child, self._child = self._child, None
        self._data_dir.standby_note.unlink(missing_ok=True)
        if child is None or child.stdin is None:
            return None
        self._failures = 0
        run_log.parent.mkdir(parents=True, exist_ok=True)
        order = {"run_id": run_id, "slot": slot, "log": str(run_log)}
        try:
            if child.poll() is None and code_version() == self._code:
                with child.stdin as pipe:
                    pipe.write(json.dumps(order).encode() + b"\n")
                return child
        except OSError:  # it has just died
            pass
        _end(child)
        return None

    def turn(self) -> None:
        now = time.monotonic()
        if self._child is not None:
            ended = self._child.poll() is not None
            if not ended and not self._outdated(now):
                return
            if ended:
                self._tell_end(self._child)
            _end(self._child)
            pause = min(AGAIN_AFTER * 2**self._failures, LONGEST_PAUSE)
            self._child, self._next = None, now + pause
        if self._kept and now >= self._next:
            self._next = now + AGAIN_AFTER
            if psutil.virtual_memory().available >= LEAST_MEMORY:
                self._start()

    def _tell_end(self, child: "subprocess.Popen[bytes]") -> None:
        assert self._output is not None
        self._failures += 1
        code, line = child.returncode, self._output.last_line()
        log.warning("the process that waits for a run has ended (%s): %s", code, line)

    def _start(self) -> None:
        self._code, self._looked = code_version(), time.monotonic()
        self._child = process.start_detached(self._command, stdin=subprocess.PIPE)
        self._output = process.CapturedOutput(self._child)
        self._data_dir.standby_note.write_text(json.dumps({"pid": self._child.pid}))
        log.info("process %d waits for a run", self._child.pid)

    def _outdated(self, now: float) -> bool:
        if now - self._looked < LOOK_EVERY:
            return False
        self._looked = now
        return code_version() != self._code


def waiting(data_dir: DataDir) -> dict[str, int] | None:
    """The process that waits, with its memory in bytes; None where none does."""
    try:
        pid = int(json.loads(data_dir.standby_note.read_text())["pid"])
        process = psutil.Process(pid)
        if "--standby" not in process.cmdline() or str(data_dir) not in process.cmdline():
            return None
        memory = int(process.memory_info().rss)
    except (OSError, ValueError, KeyError, psutil.Error):
        return None
    return {"pid": pid, "memory": memory}


def handed_run() -> tuple[str, str] | None:
    """In the process that waits: run and slot, once `take` names them, with the log that output
    goes to from then on; None where the supervisor that would name one has gone."""
    line = sys.stdin.readline()
    if not line:
        return None
    order = json.loads(line)
    with open(order["log"], "ab") as output, open(os.devnull, "rb") as nothing:
        for file, number in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(file.fileno(), number)
    return order["run_id"], order["slot"]


def code_version() -> CodeVersion:
    """What changes when our code does, or an installed package: newest file, files, packages."""
    root = Path(__file__).parents[2]
    changed = [path.stat().st_mtime_ns for name in PACKAGES for path in (root / name).rglob("*.py")]
    installed = {
        f"{entry.name} {entry.stat().st_mtime_ns}"
        for folder in sys.path
        if folder.endswith("-packages") and os.path.isdir(folder)
        for entry in os.scandir(folder)
        if entry.name.endswith(".dist-info")
    }
    return max(changed, default=0), len(changed), frozenset(installed)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Whatever it does just now."""
    if child.stdin is not None and not child.stdin.closed:
        child.stdin.close()
    if child.poll() is None:
        child.kill()
    child.wait()
