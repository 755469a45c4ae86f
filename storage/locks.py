"""Lock files of the data directory: one process holds each, until it ends or closes the file.

Taken by flock(2), which older versions see too. The file stays: removed and made anew, it would be
a second lock beside the one that somebody waits for.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def take(path: Path) -> IO[bytes] | None:
    """The open file that holds the lock; None where another process has it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


@contextmanager
def waiting(path: Path) -> Iterator[None]:
    """Holds the lock inside; waits for it as long as another process has it."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def held(path: Path) -> bool:
    """Whether a process holds the lock. A free one is taken for a moment and given back; who
    wants it in that moment has to try again."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
