"""The files that were made for pages: where each lies, and which ones stay."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from opd.errors import ErrorKind, UserError
from opd.files import remove
from storage import clock
from storage.data_dir import DataDir
from storage.engine import read
from storage.queue import requests

MAX_FILES = 50
MAX_BYTES = 20 * 10**9  # of all; the newest stays, however large
RESERVE = 256 * 2**20  # bytes that stay free for the runs
ADVICE = "delete checkpoints or downloads, or use the command with --out on another disk"


def path_of(data_dir: DataDir, name: str) -> Path:
    """The file of a request, by its id."""
    return data_dir.downloads / name


def file_name(kind: str, payload: Mapping[str, Any]) -> str:
    """The name of the download: of ids and fixed words only."""
    runs = payload["runs"]
    what = runs[0] if len(runs) == 1 else f"{len(runs)}-runs"
    if kind == "report":
        return f"{what}-report.html"
    if kind == "save":
        return f"{what}-model{'-merged' if payload['merge'] else ''}.tar"
    return f"{what}-rollouts{'-table' if payload['table'] else ''}.{payload['format']}"


def sweep(engine: Engine, data_dir: DataDir) -> None:
    """Removes files older than a day or beyond the limits, each with its request, and whatever
    belongs to no request. Nobody may be writing there meanwhile."""
    with read(engine) as connection:
        now = clock.now(connection)
    kept: set[str] = set()
    total = 0
    for request in requests.read_file_requests(engine):
        name = request["id"]
        if request["state"] != "done":
            continue
        size = _size(path_of(data_dir, name))
        old = request["created_at"] < now - requests.KEPT_SECONDS
        beyond = bool(kept) and (len(kept) >= MAX_FILES or total + (size or 0) > MAX_BYTES)
        if size is None or old or beyond:
            requests.remove(engine, name)
        else:
            kept.add(name)
            total += size
    if data_dir.downloads.is_dir():
        for entry in os.scandir(data_dir.downloads):
            if entry.name not in kept:
                remove(Path(entry.path))


def check_room(data_dir: DataDir, needed: int, what: str, advice: str = ADVICE) -> None:
    """Raises UserError of kind "disk full" where so many bytes would not leave RESERVE."""
    free = free_bytes(data_dir)
    if needed + RESERVE > free:
        raise UserError(
            f"{what} needs {_mega(needed)} of disk and {_mega(RESERVE)} stay free for runs; "
            f"{_mega(free)} are free: {advice}",
            where=str(data_dir.downloads),
            kind=ErrorKind.DISK_FULL,
        )


def free_bytes(data_dir: DataDir) -> int:
    """On the disk of the data directory."""
    return shutil.disk_usage(data_dir.path).free


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _mega(count: int) -> str:
    return f"{count / 1e6:,.0f} MB" if count >= 1e7 else f"{count / 1e6:,.1f} MB"
