"""Marking rollouts and tokens with a note, changing a note, removing a mark."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from opd.config.names import checked_note
from opd.errors import ErrorKind, StaleEditError, UserError
from opd.types import Mark
from storage import clock
from storage.databases.turns import take_turn
from storage.engine import begin
from storage.lookups import new_id, rollout_row, shown
from storage.schema import WHOLE, mark, run
from storage.text import clean

MAX_MARKS = 5000  # of one run


def add_mark(engine: Engine, rollout_id: str, position: int | None, note: str) -> str:
    """Marks a token, or the rollout where `position` is None; → the mark's id.

    Raises UserError, and StaleEditError where there is a mark already.
    """
    text = checked_note(clean(note), where="note")
    with begin(engine) as connection:
        row = rollout_row(connection, rollout_id)
        take_turn(connection, f"marks of {row['run_id']}")
        if position is not None and not 0 <= position < row["tokens"]:
            limit = f"0 to {row['tokens'] - 1}" if row["tokens"] else "nothing: it has no tokens"
            raise UserError(f"must be {limit} (got {position})", where="position")
        at = WHOLE if position is None else position
        stored = connection.execute(
            select(mark).where(mark.c.rollout_id == rollout_id, mark.c.position == at)
        )
        if (earlier := stored.mappings().first()) is not None:
            raise StaleEditError(
                rollout_id, as_shown(dict(earlier)), "has a mark there already: nothing was changed"
            )
        name = new_id("mark")
        insert_marks(
            connection,
            row["run_id"],
            [{"rollout_id": rollout_id, "completion": row["completion"], "id": name}],
            [Mark(position, text)],
        )
    return name


def edit_mark(engine: Engine, mark_id: str, note: str, *, version: int | None = None) -> None:
    """Changes the note. `version` is that of the mark which the editor has seen.

    Raises StaleEditError where it is not the mark's any more, UserError.
    """
    text = checked_note(clean(note), where="note")
    with begin(engine) as connection:
        row = _seen(connection, mark_id, version)
        if text == row["note"]:
            return
        changed_at = clock.now(connection)
        changes = {"note": text, "version": row["version"] + 1, "changed_at": changed_at}
        where = (mark.c.id == mark_id, mark.c.version == row["version"])
        if connection.execute(update(mark).where(*where).values(**changes)).rowcount != 1:
            raise StaleEditError(mark_id, as_shown(row))  # where writers do not wait (PostgreSQL)


def remove_mark(engine: Engine, mark_id: str, *, version: int | None = None) -> None:
    """As `edit_mark`: a note that somebody else has changed meanwhile is not lost."""
    with begin(engine) as connection:
        _seen(connection, mark_id, version)
        connection.execute(delete(mark).where(mark.c.id == mark_id))


def insert_marks(
    connection: Connection,
    run_id: str,
    targets: Sequence[Mapping[str, Any]],
    marks: Sequence[Mark],
) -> None:
    """Checked marks of one run; a target has rollout_id and completion, and may have the id.

    Raises UserError where the run would have more than MAX_MARKS.
    """
    _check_room(connection, run_id, len(marks))
    now = clock.now(connection)
    rows = [
        {
            **{"id": target.get("id") or new_id("mark"), "run_id": run_id, "version": 1},
            "rollout_id": target["rollout_id"],
            "position": WHOLE if one.position is None else one.position,
            "note": one.note,
            "completion": digest(target["completion"]),
            **{"created_at": now, "changed_at": now},
        }
        for target, one in zip(targets, marks, strict=True)
    ]
    if rows:
        connection.execute(insert(mark), rows)


def as_shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A mark as REST shows it by itself."""
    names = ("id", "run_id", "rollout_id", "note", "version", "created_at", "changed_at")
    position = row["position"]
    return {
        **{name: row[name] for name in names},
        "position": None if position == WHOLE else position,
    }


def digest(completion: str) -> str:
    """What tells whether a rollout's text is still the one that was marked."""
    return hashlib.blake2b(completion.encode(), digest_size=12).hexdigest()


def no_mark(mark_id: str) -> UserError:
    return UserError("no such mark", where=mark_id, kind=ErrorKind.NOT_FOUND)


def _seen(connection: Connection, mark_id: str, version: int | None) -> Mapping[str, Any]:
    rows = connection.execute(
        select(mark)
        .join(run, run.c.id == mark.c.run_id)
        .where(mark.c.id == mark_id, *shown())
        .with_for_update(of=mark)
    )
    row = rows.mappings().first()
    if row is None:
        raise no_mark(mark_id)
    seen = dict(row)
    if version not in (None, seen["version"]):
        raise StaleEditError(mark_id, as_shown(seen))
    return seen


def _check_room(connection: Connection, run_id: str, more: int) -> None:
    has = connection.scalar(select(func.count()).select_from(mark).where(mark.c.run_id == run_id))
    if (has or 0) + more > MAX_MARKS:
        raise UserError(f"at most {MAX_MARKS} marks (has {has}): remove some", where=run_id)
