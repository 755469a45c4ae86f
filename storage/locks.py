"""Lock files of the data directory: whether a process holds one."""

import fcntl
from pathlib import Path


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
