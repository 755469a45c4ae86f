"""What people change on a run: its name, notes and tags, and whether it is shown."""

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, delete, insert, update

from opd.errors import ErrorKind, UserError
from storage.engine import begin
from storage.lookups import not_found, run_row
from storage.schema import run, run_tag
from storage.text import clean

MAX_NAME, MAX_TAG, MAX_TAGS, MAX_NOTES = 200, 100, 50, 20_000


def rename(engine: Engine, run_id: str, name: str) -> None:
    _update(engine, run_id, {"name": checked_text(name, MAX_NAME, "name")})


def set_notes(engine: Engine, run_id: str, notes: str) -> None:
    if len(notes) > MAX_NOTES:
        raise UserError(f"at most {MAX_NOTES} characters (got {len(notes)})", where="notes")
    _update(engine, run_id, {"notes": clean(notes)})


def set_tags(engine: Engine, run_id: str, tags: Sequence[str]) -> None:
    labels = checked_tags(tags)
    with begin(engine) as connection:
        run_row(connection, run_id)
        write_tags(connection, run_id, labels)


def delete_run(engine: Engine, run_id: str) -> None:
    """Hides a run that is not running; `restore_run` brings it back."""
    with begin(engine) as connection:
        if run_row(connection, run_id)["status"] == "running":
            raise UserError("is running: cancel it first", where=run_id, kind=ErrorKind.RUNNING)
        connection.execute(update(run).where(run.c.id == run_id).values(deleted_at=time.time()))


def restore_run(engine: Engine, run_id: str) -> None:
    with begin(engine) as connection:
        restored = connection.execute(
            update(run).where(run.c.id == run_id, ~run.c.hidden).values(deleted_at=None)
        )
        if restored.rowcount != 1:
            raise not_found(run_id)


def remove(connection: Connection, run_id: str) -> None:
    """Deletes a run with all its records inside the caller's transaction."""
    connection.execute(delete(run).where(run.c.id == run_id))


def _update(engine: Engine, run_id: str, values: dict[str, Any]) -> None:
    with begin(engine) as connection:
        run_row(connection, run_id)
        connection.execute(update(run).where(run.c.id == run_id).values(**values))


def write_tags(connection: Connection, run_id: str, tags: list[str]) -> None:
    connection.execute(delete(run_tag).where(run_tag.c.run_id == run_id))
    if tags:
        connection.execute(insert(run_tag), [{"run_id": run_id, "tag": tag} for tag in tags])


def checked_text(text: str, limit: int, field: str) -> str:
    text = clean(text).strip()
    if not 1 <= len(text) <= limit:
        raise UserError(f"must have 1 to {limit} characters (got {len(text)})", where=field)
    return text


def checked_tags(tags: Sequence[str]) -> list[str]:
    labels = sorted({checked_text(tag, MAX_TAG, "tags") for tag in tags})
    if len(labels) > MAX_TAGS:
        raise UserError(f"at most {MAX_TAGS} tags (got {len(labels)})", where="tags")
    return labels
