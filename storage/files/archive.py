"""Reads a database that lies where nothing can be written: an archive, a read-only mount, the
directory of another user."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from opd.errors import ErrorKind, UserError


def is_read_only(database: Path) -> bool:
    """Whether the file is there, and it or its folder cannot be written by us."""
    return database.is_file() and not (
        os.access(database, os.W_OK) and os.access(database.parent, os.W_OK)
    )


def connect(database: Path, sqlite: ModuleType) -> Callable[[], Any]:
    """What opens a connection to it. Raises UserError.

    A log with its index beside the file is read with it, also while a server elsewhere writes.
    Without a log the file is all. A log without its index cannot be read in place, and the file
    alone would lack what the log holds: then both are copied to a temporary folder.
    """
    log, index = (Path(f"{database}-{part}") for part in ("wal", "shm"))
    mode = "mode=ro"
    if not log.is_file() or not log.stat().st_size:
        mode = "immutable=1"
    elif not index.is_file():
        database = _copied(database, log)
    address = f"file:{quote(str(database))}?{mode}"

    def opened() -> Any:
        return sqlite.connect(address, uri=True, isolation_level=None, check_same_thread=False)

    return opened


def _copied(database: Path, log: Path) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="opd-archive-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        for file in (database, log):
            shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise UserError(
            f"can only be read, and not be copied to {folder} ({error.strerror}) to be read there: "
            "copy the data directory to a disk that can be written, and use the copy",
            where=str(database),
            kind=ErrorKind.READ_ONLY,
        ) from None
    return folder / database.name
