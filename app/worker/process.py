"""Processes: who owns a run (named by its id, its start, the boot and the place it lives in), and
how one is started that outlives us."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import psutil

from app.worker.owners.place import Place, boot_id
from storage.data_dir import DataDir
from storage.queue.jobs import Owner

MARK = "OPD_JOB"  # `Place.mark`, in the environment of a job and of all it starts
CAPTURED = 8192  # bytes
LAST_WORDS = 2.0  # seconds for those of a child that has ended
LAUNCHER = Path(__file__).parents[2] / "opd_launcher.py"
PARENT_DIES = 1  # PR_SET_PDEATHSIG of prctl(2)
_GONE = (psutil.NoSuchProcess, psutil.AccessDenied, ProcessLookupError, PermissionError)


def program(module: str) -> tuple[str, ...]:
    """The command that starts a module of ours, whatever the path or the working directory holds.

    -P: the folder of the launcher is not put before the standard library."""
    return (sys.executable, "-P", str(LAUNCHER), module)


def owner_of(pid: int) -> Owner | None:
    """A living process of this machine, without its place; None for one gone or a zombie."""
    if sys.platform == "linux":
        stat = _linux_stat(pid)
        if stat is None or stat[0] in b"ZX":
            return None
        return Owner(pid, stat[1], boot_id())
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return Owner(pid, process.create_time(), boot_id())
    except _GONE:
        return None


def this_process(data_dir: DataDir) -> Owner:
    """This process as the owner of something that the data directory's rows name."""
    owner = owner_of(os.getpid())
    assert owner is not None
    return replace(owner, place=Place.of(data_dir).text)


def alive(owner: Owner) -> bool:
    """Whether that very process still runs: a process id is given out again, its start is not.

    Only of an owner whose pid may be judged here: see `Place.judges`.
    """
    now = owner_of(owner.pid)
    return now is not None and now.boot == owner.boot and abs(now.started - owner.started) < 0.5


def start_detached(
    command: Sequence[str],
    *,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own: neither Ctrl-C nor the end of this one reaches it.

    Its output is added to the file `log`, not to a pipe that could break; without one it is the
    caller's to read. Raises OSError, of the log too.
    """
    shown = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    env = {**(os.environ if environment is None else environment), **shown}

    def start(output: IO[bytes] | int) -> subprocess.Popen[bytes]:
        errors = subprocess.STDOUT
        return subprocess.Popen(
            command, stdin=stdin, stdout=output, stderr=errors, start_new_session=True, env=env
        )

    if log is None:
        return start(subprocess.PIPE)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return start(output)


class CapturedOutput:
    """What a child writes before its log is open, or as it dies: its last bytes are kept. They are
    read on a thread, so that a full pipe never holds it up."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        self._kept = b""
        self._thread = threading.Thread(target=self._read, name="captured output", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Of a child that has ended."""
        self._thread.join(LAST_WORDS)
        return self._kept.decode("utf-8", "replace").strip()

    def last_line(self) -> str:
        """That says what went wrong, as the last of a traceback does; cut to 300 characters."""
        lines = [line.strip() for line in self.text().splitlines() if line.strip()]
        return lines[-1].removeprefix("Error: ")[:300] if lines else ""

    def _read(self) -> None:
        stream = self._child.stdout
        if stream is None:
            return
        with stream:
            while part := stream.read1(CAPTURED):  # type: ignore[attr-defined]
                self._kept = (self._kept + part)[-CAPTURED:]


def stopped(pid: int) -> bool:
    """Whether somebody holds the process still (Ctrl-Z), which is not the same as hanging."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    except _GONE:
        return False


def family(owner: Owner, mark: str, place: Place) -> list[int]:
    """Every process of a job: the owner, those of its own session, those that carry its mark.

    The session of a foreground run belongs to the caller's shell, so it counts only where the
    owner made it; children that left the session are still known by their environment. None where
    the owner is of another place.
    """
    if not place.judges(owner):
        return []
    reused = not alive(owner) and owner_of(owner.pid) is not None
    members = []
    for pid in psutil.pids():
        if pid == os.getpid():
            continue
        same = not reused and (pid == owner.pid or _session(pid) == owner.pid)
        if (same or _carries(pid, mark)) and owner_of(pid) is not None:
            members.append(pid)
    return members


def send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def end_with_parent(number: signal.Signals) -> None:
    """This process gets the signal when its parent dies, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PARENT_DIES, int(number))


def cause_of_exit(code: int, whose: str = "the job's process ") -> str:
    """An exit code as subprocess reports it (−n: signal n), in words."""
    if code >= 0:
        return f"{whose}ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        return f"killed by signal {-code}"
    text = f"killed by signal {-code} ({name})"
    return f"{text}: the system may have run out of memory" if name == "SIGKILL" else text


def _linux_stat(pid: int) -> tuple[bytes, float] | None:
    """State and start in seconds after boot, which no change of the clock moves."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()
    return fields[0], int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _carries(pid: int, mark: str) -> bool:
    try:
        return psutil.Process(pid).environ().get(MARK) == mark
    except (*_GONE, psutil.ZombieProcess, OSError):
        return False
