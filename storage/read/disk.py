"""How much of the disk a run's folder takes, looked up now and then."""

import os
import threading
import time
from pathlib import Path

from cachetools import TTLCache, cached

from storage.data_dir import RunDir

KEPT_SECONDS = 20.0
MOST_KEPT = 5_000
_cache: TTLCache[RunDir, dict[str, int]] = TTLCache(
    MOST_KEPT, KEPT_SECONDS, timer=lambda: time.monotonic()
)


@cached(_cache, key=lambda run: run, lock=threading.Lock())
def disk_use(run: RunDir) -> dict[str, int]:
    """Bytes of the files in the run's folder: {"checkpoints", "other", "files"}, the last the sum.

    Links are neither followed nor counted. An answer is kept for KEPT_SECONDS; nobody may change
    it."""
    checkpoints, other = _bytes(run.checkpoints), _bytes(run.path, without=run.checkpoints)
    return {"checkpoints": checkpoints, "other": other, "files": checkpoints + other}


def _bytes(folder: Path, without: Path | None = None) -> int:
    """A folder that is not there, or goes while it is looked at, holds nothing."""
    total, waiting, left_out = 0, [str(folder)], str(without)
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink() or entry.path == left_out:
                        continue
                    if entry.is_dir():
                        waiting.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total
