"""What people change on a run: its name, notes and tags, and whether it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select, update

from opd.config.names import check_name
from opd.errors import ErrorKind, StaleEditError, UserError
from storage import clock
from storage.engine import begin
from storage.lookups import not_found, run_row
from storage.recipes import recipe_names
from storage.schema import run, run_tag
from storage.text import clean

MAX_NAME, MAX_TAG, MAX_TAGS, MAX_NOTES = 200, 100, 50, 20_000


@dataclass(frozen=True)
class RunEdit:
    """What one edit changes; None and empty leave as it is. `tags` replaces all tags."""

    name: str | None = None
    notes: str | None = None
    tags: Sequence[str] | None = None
    add_tags: Sequence[str] = ()
    remove_tags: Sequence[str] = ()


def edit(engine: Engine, run_id: str, change: RunEdit, *, version: int | None = None) -> None:
    """Makes the whole change, or none of it.

    `version` is that of the run which the editor has seen. Raises StaleEditError where it is not
    the run's any more, UserError for what cannot be stored.
    """
    with begin(engine) as connection:
        row = run_row(connection, run_id)
        tags = _tags(connection, run_id)
        shown = {"name": recipe_names(row)["name"], "notes": row["notes"]}
        seen = {"version": row["version"], **shown, "tags": sorted(tags)}
        if version not in (None, row["version"]):
            raise StaleEditError(run_id, seen)
        values = {name: v for name, v in _texts(change).items() if v != shown[name]}
        labels = _edited_tags(tags, change)
        if not values and labels == tags:
            return
        updated = connection.execute(
            update(run)
            .where(run.c.id == run_id, run.c.version == row["version"])
            .values(**values, version=row["version"] + 1)
        )
        if updated.rowcount != 1:  # only where writers do not wait for each other (PostgreSQL)
            raise StaleEditError(run_id, seen)
        if labels != tags:
            write_tags(connection, run_id, sorted(labels))


def delete_run(engine: Engine, run_id: str, *, status: str | None = None) -> None:
    """Hides a run that is not running; `restore_run` brings it back. `status`: in which it was seen
    by whoever deletes it; UserError where somebody has resumed it meanwhile."""
    with begin(engine) as connection:
        row = run_row(connection, run_id)
        if row["status"] == "running":
            raise UserError("is running: cancel it first", where=run_id, kind=ErrorKind.RUNNING)
        if status not in (None, row["status"]):
            by = f", resumed by {row['resumed_by']}" if row["resumed_by"] else ""
            text = f"is {row['status']} by now{by}: it was not deleted"
            raise UserError(text, where=run_id, kind=ErrorKind.STALE_EDIT)
        now = clock.now(connection)
        connection.execute(update(run).where(run.c.id == run_id).values(deleted_at=now))


def restore_run(engine: Engine, run_id: str) -> None:
    with begin(engine) as connection:
        restored = connection.execute(
            update(run).where(run.c.id == run_id, ~run.c.hidden).values(deleted_at=None)
        )
        if restored.rowcount != 1:
            raise not_found(run_id)


def stopped_otherwise(run_id: str, mode: str, by: str) -> UserError:
    """Of two people who stop a run in different ways, for the second."""
    ways = {"save": "saves a checkpoint", "discard": "discards its checkpoints"}
    text = f"is being stopped already by {by or 'somebody else'}, and {ways[mode]}: left as it is"
    return UserError(text, where=run_id, kind=ErrorKind.STALE_EDIT)


def remove(connection: Connection, run_id: str) -> None:
    """Deletes a run with all its records inside the caller's transaction."""
    connection.execute(delete(run).where(run.c.id == run_id))


def _texts(change: RunEdit) -> dict[str, str]:
    texts = {}
    if change.name is not None:
        texts["name"] = checked_label(change.name, MAX_NAME, "name")
    if change.notes is not None:
        if len(change.notes) > MAX_NOTES:
            raise UserError(
                f"at most {MAX_NOTES} characters (got {len(change.notes)})", where="notes"
            )
        texts["notes"] = clean(change.notes)
    return texts


def _edited_tags(tags: set[str], change: RunEdit) -> set[str]:
    """The tags after the change. Those to remove are not checked: older ones may be anything."""
    removed = {clean(tag).strip() for tag in change.remove_tags}
    added = checked_tags(change.add_tags)
    if both := removed.intersection(added):
        raise UserError(f"{min(both)!r} is to be added and removed", where="tags")
    kept = tags if change.tags is None else set(checked_tags(change.tags))
    edited = (kept - removed).union(added)
    if len(edited) > MAX_TAGS and edited != tags:
        raise UserError(f"at most {MAX_TAGS} tags (would be {len(edited)})", where="tags")
    return edited


def _tags(connection: Connection, run_id: str) -> set[str]:
    return set(connection.scalars(select(run_tag.c.tag).where(run_tag.c.run_id == run_id)))


def write_tags(connection: Connection, run_id: str, tags: list[str]) -> None:
    connection.execute(delete(run_tag).where(run_tag.c.run_id == run_id))
    if tags:
        connection.execute(insert(run_tag), [{"run_id": run_id, "tag": tag} for tag in tags])


def checked_text(text: str, limit: int, field: str) -> str:
    text = clean(text).strip()
    if not 1 <= len(text) <= limit:
        raise UserError(f"must have 1 to {limit} characters (got {len(text)})", where=field)
    return text


def checked_label(text: str, limit: int, field: str) -> str:
    """A name or tag: `checked_text` without control characters."""
    label = checked_text(text, limit, field)
    check_name(label, where=field)
    return label


def checked_tags(tags: Sequence[str]) -> list[str]:
    labels = sorted({checked_label(tag, MAX_TAG, "tags") for tag in tags})
    if len(labels) > MAX_TAGS:
        raise UserError(f"at most {MAX_TAGS} tags (got {len(labels)})", where="tags")
    return labels
