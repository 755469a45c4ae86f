"""How much of the disk a run's folder takes, looked up now and then."""

import os
import threading
import time
from pathlib import Path

KEPT_SECONDS = 20.0
MOST_KEPT = 5_000
CHECKPOINTS = "checkpoints"
_known: dict[Path, tuple[float, dict[str, int]]] = {}
_lock = threading.Lock()


def disk_use(data_dir: Path, run_id: str, now: float | None = None) -> dict[str, int]:
    """Bytes of the files in the run's folder: {"checkpoints", "other", "files"}, the last the sum.

    Links are neither followed nor counted. An answer is kept for KEPT_SECONDS."""
    now = time.monotonic() if now is None else now
    folder = data_dir / "runs" / run_id
    with _lock:
        kept = _known.get(folder)
    if kept is not None and 0 <= now - kept[0] < KEPT_SECONDS:
        return dict(kept[1])
    checkpoints, other = _bytes(folder / CHECKPOINTS), _bytes(folder, without=CHECKPOINTS)
    found = {"checkpoints": checkpoints, "other": other, "files": checkpoints + other}
    with _lock:
        if len(_known) >= MOST_KEPT:
            _known.clear()
        _known[folder] = now, found
    return dict(found)


def _bytes(folder: Path, without: str = "") -> int:
    """A folder that is not there, or goes while it is looked at, holds nothing."""
    total, waiting, left_out = 0, [str(folder)], str(folder / without) if without else ""
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
