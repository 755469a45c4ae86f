"""A data directory has one server at a time, which notes for others how it is reached."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.cli.output import say
from opd.errors import UserError
from opd.files import written_aside
from storage import locks
from storage.data_dir import DataDir


@contextmanager
def served_alone(data_dir: DataDir) -> Iterator[None]:
    """Holds the directory inside, until this process ends at the latest. Raises UserError where
    another server has it, on whichever port."""
    try:
        lock = locks.take(data_dir.server_lock)
    except OSError as error:
        raise UserError(
            f"cannot be written ({error.strerror}), as a server must; the commands runs, show, "
            "export and report only read it",
            where=f"--data-dir {data_dir}",
        ) from None
    if lock is None:
        note = _read(data_dir)
        served = f"process {note['pid']} at {note['address']}" if note else "another process"
        raise UserError(
            f"is served already by {served}: open that, stop it first, or name another directory",
            where=f"--data-dir {data_dir}",
        )
    with lock:
        yield


@contextmanager
def noted(data_dir: DataDir, note: dict[str, Any]) -> Iterator[None]:
    """The note stands inside; it is removed only as it was written here."""
    try:
        with written_aside(data_dir.server_note) as path:
            path.write_text(json.dumps(note), encoding="utf-8")
    except OSError as error:
        say(f"Warning: {data_dir.server_note}: cannot be written ({error.strerror})")
    try:
        yield
    finally:
        if _read(data_dir) == note:
            data_dir.server_note.unlink(missing_ok=True)


def _read(data_dir: DataDir) -> dict[str, Any] | None:
    """None where there is no note that can be read."""
    try:
        note = json.loads(data_dir.server_note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) and {"pid", "address"} <= note.keys() else None
