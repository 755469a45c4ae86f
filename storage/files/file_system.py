"""What the file system below a data directory can do: found out at the start, in a few
milliseconds, and said by name."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opd.errors import lacks_room
from storage.data_dir import DataDir

MISSING = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)
NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "fuse.sshfs", "fuse.gcsfuse", "fuse.s3fs", "lustre")
LITTLE = 50_000_000  # bytes free


@dataclass(frozen=True)
class Limitation:
    """An error keeps a server or a run from the directory; a warning is worked round."""

    severity: Literal["error", "warning"]
    text: str
    advice: str


def has_flock(path: Path) -> bool:
    """Whether the file's system knows flock(2); some do only when mounted so."""
    return _works(path, lambda fd: fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB))


def has_record_locks(path: Path) -> bool:
    """Whether the file's system knows the locks of fcntl(2), without which SQLite waits for ever.

    The file must be none that a database has open: closing it would give up its locks."""
    return _works(path, lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB))


def has_hard_links(folder: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".probe-") as name:
        first = Path(name, "first")
        first.touch()
        try:
            os.link(first, Path(name, "second"))
        except OSError:
            return False
    return True


def kind(folder: Path) -> str:
    """Type of the file system, as mount(8) names it; empty where that is not known."""
    fs_type, length = "", -1
    path = os.path.realpath(folder)
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in lines.splitlines():
        head, _, tail = line.partition(" - ")
        point = head.split()[4].replace("\\040", " ")
        inside = point == "/" or path == point or path.startswith(f"{point}/")
        if inside and len(point) >= length and tail:
            fs_type, length = tail.split()[0], len(point)
    return fs_type


def examine(data_dir: DataDir) -> list[Limitation]:
    """What a server or a run would meet in the directory, if it is there."""
    if data_dir.path.is_symlink() and not data_dir.path.exists():
        target = os.readlink(data_dir.path)
        text = f"is a link that leads nowhere (to {target})"
        return [Limitation("error", text, "Mount the disk, or name another directory.")]
    return list(_problems(data_dir)) if data_dir.path.is_dir() else []


def no_record_locks(folder: Path) -> str:
    """Of a directory that cannot hold SQLite's file."""
    named = kind(folder)
    return (
        f"is on a file system{f' ({named})' if named else ''} without record locks (fcntl), which "
        "SQLite needs: name a directory on a local disk (--data-dir), another database "
        "(--database-url), or mount it with locks (NFS: without nolock; Lustre: -o flock)"
    )


def _problems(data_dir: DataDir) -> Iterator[Limitation]:
    folder = data_dir.path
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as file:
            file.write(b"\1" * 4096)
            file.flush()
            path = Path(file.name)
            records, whole = has_record_locks(path), has_flock(path)
        linked = has_hard_links(folder)
    except OSError as error:
        text = f"cannot be written ({error.strerror})"
        advice = "Free some space." if lacks_room(error) else ""
        yield Limitation("error", text, advice or "Copy it to a disk that can be written.")
        return
    if not records:
        yield Limitation("error", no_record_locks(folder), "")
    if not whole:
        text = "is on a file system without flock: files with a heartbeat take its place"
        advice = "After a crash, another server waits half a minute. Lustre: mount with -o flock."
        yield Limitation("warning", text, advice)
    if not linked:
        text = "is on a file system without hard links: saved models are copied to be downloaded"
        yield Limitation("warning", text, "Nothing to do.")
    if (named := kind(folder)).startswith(NETWORK):
        text = f"is on {named}, where SQLite's log is right only for processes of one host"
        yield Limitation("warning", text, "For several hosts, give --database-url.")
    if shutil.disk_usage(folder).free < LITTLE:
        free = shutil.disk_usage(folder).free / 1e6
        yield Limitation("warning", f"has only {free:.0f} MB free", "Free some space.")


def _works(path: Path, lock: Callable[[int], None]) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        lock(descriptor)
    except OSError as error:
        return error.errno not in MISSING
    finally:
        os.close(descriptor)
    return True
