"""Locks for file systems without flock: a file that only one process can make, with who that is;
its time of change is the holder's heartbeat.

A holder that has died is known at once where it was a process of this host and namespace, and by
its silence anywhere else. Time is the file system's: that of a file which was touched just now.
"""

import logging
import os
import socket
import threading
from pathlib import Path
from types import TracebackType

log = logging.getLogger(__name__)
BEAT_EVERY = 5.0  # seconds
SILENT_AFTER = 30.0


class BeatingLock:
    """Held until it is closed, or the process ends."""

    def __init__(self, path: Path, holder: str) -> None:
        self._path = path
        self._holder = holder
        self._closed = threading.Event()
        threading.Thread(target=self._beat, name=f"lock {path.name}", daemon=True).start()

    @classmethod
    def take(cls, path: Path) -> "BeatingLock | None":
        """None where another process has it. Raises OSError."""
        file = file_of(path)
        if file.exists() and not _is_stale(file):
            return None
        # One at a time looks again, removes what is stale and makes its own.
        passage = file.with_suffix(".passage")
        if not _made(passage, "") and not _is_stale(passage):
            return None
        try:
            if file.exists():
                if not _is_stale(file):
                    return None
                file.unlink(missing_ok=True)
            holder = f"{_here()} {os.getpid()}"
            return cls(file, holder) if _made(file, holder) else None
        finally:
            passage.unlink(missing_ok=True)

    def close(self) -> None:
        if not self._closed.is_set():
            self._closed.set()
            if _read(self._path) == self._holder:
                self._path.unlink(missing_ok=True)

    def __enter__(self) -> "BeatingLock":
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_EVERY):
            if _read(self._path) not in (self._holder, None):
                log.error("%s was taken by another process while this one was silent", self._path)
                return
            try:
                os.utime(self._path)
            except OSError as error:
                log.warning("%s: no heartbeat: %s", self._path, error)


def file_of(path: Path) -> Path:
    """The file that stands for the lock."""
    return path.with_name(f"{path.name}.held")


def is_held(path: Path) -> bool:
    file = file_of(path)
    return file.exists() and not _is_stale(file)


def _made(path: Path, text: str) -> bool:
    """Whether this process made the file. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True


def _is_stale(path: Path) -> bool:
    """Whether the holder has died, or has been silent for too long."""
    holder = _read(path)
    if holder is None:  # gone meanwhile
        return True
    where, _, pid = holder.rpartition(" ")
    if where == _here() and pid.isdigit() and not _runs(int(pid)):
        return True
    clock = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.clock")
    try:
        clock.touch()
        return clock.stat().st_mtime - path.stat().st_mtime > SILENT_AFTER
    except FileNotFoundError:
        return True
    except OSError:  # read-only: nobody can hold anything new
        return False
    finally:
        clock.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _here() -> str:
    """Where a pid means something."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        namespace = boot = "-"
    return f"{socket.gethostname()} {boot} {namespace}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
