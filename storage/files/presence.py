"""Whether a database's file is still where it was opened.

A file that was moved, deleted or replaced is written on through the descriptors that are open,
where nobody will look for it: writing stops instead.
"""

import os
import sys
from weakref import WeakKeyDictionary

from sqlalchemy import Engine

from opd.errors import ErrorKind, UserError

Identity = tuple[int, int]  # inode and device
_opened: WeakKeyDictionary[Engine, Identity] = WeakKeyDictionary()


def watch(engine: Engine) -> None:
    """From now on, `check` compares with the file that is there now."""
    if engine.url.database and os.path.isfile(engine.url.database):
        _opened[engine] = _identity(engine.url.database)


def gone(engine: Engine) -> str:
    """What became of the file; empty while it is there, or is not watched."""
    path, opened = engine.url.database, _opened.get(engine)
    if path is None or opened is None:
        return ""
    try:
        identity = _identity(path)
    except OSError as error:
        folder = os.path.dirname(path)
        reason = error.strerror if os.path.isdir(folder) else "the data directory is not there"
        return f"was moved, deleted or unmounted while it was open ({reason})"
    if identity == opened:
        return ""
    if _another_is_open(path, identity):
        return "was replaced by another file while it was open"
    _opened[engine] = identity  # of a file system whose numbers change
    return ""


def check(engine: Engine) -> None:
    """Raises UserError where the file is gone."""
    if text := gone(engine):
        where = engine.url.database or ""
        raise UserError(f"{text}: nothing was stored", where=where, kind=ErrorKind.DIRECTORY_GONE)


def _identity(path: str) -> Identity:
    status = os.stat(path)
    return status.st_ino, status.st_dev


def _another_is_open(path: str, identity: Identity) -> bool:
    """Whether this process has a file open that was at the path, and none is the one there now."""
    if sys.platform != "linux":
        return True
    identities, name = [], os.path.basename(path)
    for number in os.listdir("/proc/self/fd"):
        link = f"/proc/self/fd/{number}"
        try:
            if os.path.basename(os.readlink(link).removesuffix(" (deleted)")) == name:
                identities.append(_identity(link))
        except OSError:
            continue
    return bool(identities) and identity not in identities
