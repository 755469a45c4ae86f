"""The folder by which the processes of a run on this machine find each other.

It lies where the system keeps short-lived files, since a run's own folder may be on a disk of the
network. Its first process holds a lock in it for as long as it lives; one whose lock is free was
left behind, and goes with the next run.
"""

import os
import shutil
import tempfile
from pathlib import Path

from storage import locks

PREFIX = "opd-ranks-"
LOCK = "lock"


class Scratch:
    """Of this process, until it is closed."""

    def __init__(self) -> None:
        while True:
            self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
            lock = locks.take(self._folder / LOCK)
            if lock is not None:  # nobody took it for one that was left behind
                break
        self._lock = lock

    @property
    def store(self) -> Path:
        return self._folder / "store"

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._lock.close()


def remove_abandoned(folder: Path) -> None:
    """Removes such a folder of this user's whose first process has ended; leaves any other."""
    lock = folder / LOCK
    if not folder.name.startswith(PREFIX) or folder.is_symlink() or not lock.is_file():
        return
    try:
        if folder.stat().st_uid != os.getuid():
            return
        free = locks.take(lock)
    except OSError:  # another one removes it
        return
    if free is not None:
        with free:
            shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Removes what runs have left behind that were killed with all of their processes."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        remove_abandoned(folder)
