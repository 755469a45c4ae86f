"""Where a process id means something: on one host, in one boot and PID namespace, and for the one
data directory whose rows name it.

Only a process of this very place is ever judged by its pid or sent a signal. A copy of a data
directory holds the same rows, and so does one that is shared between hosts or containers; there,
the pid is that of another process, or of one that somebody else owns.
"""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from storage.data_dir import DataDir
from storage.queue.jobs import Owner

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Place:
    """`directory` is the identity of the data directory, which no copy of it has."""

    host: str
    boot: str
    namespace: str
    directory: str
    path: str  # of the data directory, without links

    @classmethod
    def of(cls, data_dir: DataDir) -> "Place":
        path = os.path.realpath(data_dir.path)
        return cls(host_name(), boot_id(), pid_namespace(), identity(data_dir), path)

    @property
    def text(self) -> str:
        """What is stored beside pid, start and boot of an owner."""
        return f"{self.host} {self.namespace} {self.directory}"

    @property
    def identified(self) -> bool:
        return UNKNOWN not in (self.namespace, self.directory)

    def judges(self, owner: Owner) -> bool:
        """Whether the owner's pid may be looked at, and signalled, from here."""
        if owner.boot != self.boot:
            return False
        if owner.place is None:  # stored by a version that knew no places
            return self._has_file_open(owner.pid)
        return self.identified and owner.place == self.text

    def mark(self, run_id: str, attempt: int) -> str:
        """What a job and all that it starts carry in their environment."""
        return f"{run_id}:{attempt}:{self.directory}"

    def _has_file_open(self, pid: int) -> bool:
        """Whether that process works on this directory: a job holds the database open, or its log.

        False where that cannot be seen: another system than Linux, another user's process.
        """
        try:
            links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]
        except OSError:
            return False
        return any(link.startswith(f"{self.path}/") for link in links)


def host_of(owner: Owner) -> str:
    """The host that an owner names; empty for one stored by a version that knew none."""
    return (owner.place or "").partition(" ")[0]


def host_name() -> str:
    return socket.gethostname().replace(" ", "-") or UNKNOWN


def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def pid_namespace() -> str:
    """Within which process ids are counted; the same everywhere where there are none."""
    if sys.platform != "linux":
        return "-"
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return UNKNOWN


def identity(data_dir: DataDir) -> str:
    """Inode, change time and device of a file that is made empty when the directory is first used
    and never written again: no copy, by whatever means, has the change time of its original.

    The device tells a file system's snapshot from what it was taken of. It may differ between
    hosts that rightly share a directory; these judge each other by heartbeats alone anyway.
    """
    path = data_dir.identity
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        status = path.stat()
    except OSError:  # a directory that can only be read; no job runs in it
        return UNKNOWN
    return f"{status.st_ino:x}-{status.st_ctime_ns:x}-{status.st_dev:x}"
