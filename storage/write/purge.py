"""Deletes for good what `opd delete` has hidden, and imports that never became whole.

The records go in small transactions, with pauses in which others write. From the first one on the
run cannot be brought back; what a killed purge leaves, the next one finds.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Engine, Table, and_, delete, or_, select, update

from opd.errors import ErrorKind, UserError
from storage import clock, schema
from storage.engine import begin, read
from storage.lookups import in_chunks, not_found
from storage.queue import run_details
from storage.vocabulary import forget_texts

ROWS = 500  # a transaction
BYTES = 32 * 2**20
DAY = 86_400  # seconds
IMPORT_SECONDS = DAY  # after which an import that is not whole has died
run, links = schema.run, schema.experiment_run


@dataclass(frozen=True)
class DeletedRun:
    id: str
    name: str
    bytes: int  # of its records, as it counted them


def deleted_runs(engine: Engine, names: Sequence[str] = (), *, days: float = 0) -> list[DeletedRun]:
    """Runs that can be purged, the first deleted first: those of these ids, or all that were
    deleted at least so many days ago and belong to no experiment that is running.

    Raises UserError for an id of none, or of one that is not deleted or that such an experiment
    counts on."""
    with read(engine) as connection:
        counted_on = _of_running_experiments(connection)
        now = clock.now(connection)
        where = run.c.id.in_(names) if names else _deleted(now, days)
        query = select(run).where(where).order_by(run.c.deleted_at, run.c.id)
        rows = {row.id: row for row in connection.execute(query)}
        for name in names:
            if name not in rows:
                raise not_found(name)
            if rows[name].deleted_at is None:
                raise UserError("is not deleted: opd delete it first", where=name)
            if name in counted_on:
                text = f"belongs to {counted_on[name]}, which is running: cancel that first"
                raise UserError(text, where=name, kind=ErrorKind.RUNNING)
    return [DeletedRun(r.id, r.name, r.bytes) for r in rows.values() if r.id not in counted_on]


def purge_records(engine: Engine, run_id: str) -> None:
    """Deletes what the run has recorded; its row stays, hidden for good, until `purge_run`.

    Raises "not found" where it has been brought back, or purged, meanwhile."""
    with begin(engine) as connection:
        gone = or_(run.c.deleted_at.is_not(None), run.c.hidden)
        hidden = connection.execute(update(run).where(run.c.id == run_id, gone).values(hidden=True))
        if hidden.rowcount != 1:
            raise not_found(run_id)
    for table in (schema.rollout, schema.prompt, schema.teacher_prompt):
        while (seconds := _delete_some(engine, table, run_id)) is not None:
            time.sleep(seconds)  # SQLite's writers ask for their turn only now and then


def purge_run(engine: Engine, run_id: str) -> None:
    """Deletes the rest of a run of `purge_records`, and token texts that no other run needs."""
    with begin(engine) as connection:
        row = connection.execute(select(run.c.tokenizer).where(run.c.id == run_id)).first()
        if row is None:  # purged at once by somebody else
            return
        run_details.remove(connection, run_id)
        for fingerprint in {row.tokenizer or run_id, f"import:{run_id}"}:
            forget_texts(connection, fingerprint)


def _deleted(now: float, days: float) -> ColumnElement[bool]:
    dead = and_(run.c.hidden, run.c.deleted_at.is_(None), run.c.created_at < now - IMPORT_SECONDS)
    return or_(run.c.deleted_at <= now - days * DAY, dead)


def _of_running_experiments(connection: Connection) -> dict[str, str]:
    """{run: experiment}"""
    running = schema.experiment.c.status == "running"
    query = select(links.c.run_id, links.c.experiment_id).join(schema.experiment).where(running)
    return {row.run_id: row.experiment_id for row in connection.execute(query)}


def _delete_some(engine: Engine, table: Table, run_id: str) -> float | None:
    """The seconds that it took; None: there is nothing left."""
    size = table.c.get("bytes")
    columns = [table.c.id] if size is None else [table.c.id, size]
    start = time.monotonic()
    with begin(engine) as connection:
        rows = connection.execute(
            select(*columns).where(table.c.run_id == run_id).limit(ROWS)
        ).all()
        if not rows:
            return None
        ids: list[str] = []
        total = 0
        for row in rows:
            total += 0 if size is None else row[1]
            if ids and total > BYTES:
                break
            ids.append(row[0])
        for some in in_chunks(ids):
            connection.execute(delete(table).where(table.c.id.in_(some)))
    return time.monotonic() - start
