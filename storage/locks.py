"""Lock files of the data directory: one process holds each, until it ends or closes the file.

Taken by flock(2), which older versions see too. The file stays: removed and made anew, it would be
a second lock beside the one that somebody waits for. On a file system without flock, a file beside
it that only one process can make takes its place (`storage.files.beating_locks`).
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from storage.files.beating_locks import BeatingLock, is_held
from storage.files.file_system import MISSING

Lock = IO[bytes] | BeatingLock
AGAIN_AFTER = 0.2  # seconds


def take(path: Path) -> Lock | None:
    """The open file that holds the lock; None where another process has it. Raises OSError."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        if error.errno not in MISSING:
            raise
        return BeatingLock.take(path)
    return file


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Holds the lock inside; waits for it as long as another process has it."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in MISSING:
                raise
            while (lock := BeatingLock.take(path)) is None:
                time.sleep(AGAIN_AFTER)
            with lock:
                yield
            return
        yield


def held(path: Path) -> bool:
    """Whether a process holds the lock. A free one is taken for a moment and given back; who
    wants it in that moment has to try again."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return error.errno in MISSING and is_held(path)
    return False
