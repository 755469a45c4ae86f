"""Files and folders: where a user means, and whole or not there (written aside, then renamed)."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from opd.errors import UserError


def expanded(written: str) -> Path:
    """The path with `~` as a home directory; as it is written where no such user exists."""
    try:
        return Path(written).expanduser()
    except (RuntimeError, ValueError):  # ValueError: what no name can hold
        return Path(written)


def make_folder(path: Path, *, where: str) -> None:
    """Makes it with its parents. Raises UserError, which tells a link to nothing (a disk that is
    not mounted) from what else may be in the way."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        for part in (path, *path.parents):
            if part.is_symlink() and not part.exists():
                text = f"{part} is a link that leads nowhere (to {os.readlink(part)})"
                raise UserError(f"{text}: is its disk mounted?", where=where) from None
        raise UserError(f"cannot be created: {error.strerror}", where=where) from None


@contextmanager
def written_aside(
    path: Path, *, folder: bool = False, durable: bool = False, shared: bool = False
) -> Iterator[Path]:
    """A new file or folder beside `path` that takes its place when the block ends well.

    The place must be free for a folder, in one that is there: what was moved away is not made anew
    where it lay. durable: the bytes are on the disk before and after the renaming. shared: several
    processes may write at a time, the last one wins; else what an earlier one left half-written is
    swept away. Raises OSError.
    """
    owner = f".{os.getpid()}" if shared else ""
    aside = path.with_name(f".{path.name}{owner}.partial")
    remove(aside)
    if folder:
        aside.mkdir()
    else:
        aside.touch()
    made = aside.stat() if folder else None
    try:
        yield aside
        if _made_anew(aside, made):
            raise FileNotFoundError(errno.ENOENT, "was moved while it was written", str(path))
        if durable:
            _sync_all(aside)
        aside.replace(path)
    finally:
        anew = _made_anew(aside, made)
        remove(aside)
        if anew:
            with suppress(OSError):  # of the folders around it, those that hold nothing else
                os.removedirs(aside.parent)
    if durable:
        _sync(path.parent)


def _made_anew(folder: Path, made: os.stat_result | None) -> bool:
    """Did it come into being where the one that was made has been moved away?"""
    return made is not None and folder.exists() and not os.path.samestat(folder.stat(), made)


def remove(path: Path) -> None:
    """Removes a file, or a folder with all in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_all(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else ():
        _sync(file)
    _sync(path)


def _sync(path: Path) -> None:
    """Waits until the file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
