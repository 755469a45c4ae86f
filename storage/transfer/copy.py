"""Copies a studio from one database to another, all or nothing."""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, Table, func, select, text

from opd.errors import ErrorKind, UserError
from storage import schema
from storage.databases.turns import take_turn
from storage.engine import begin, read, where
from storage.transfer.rows import Digest, Row, store_rows, stored_rows

BATCH_ROWS = 5000
BATCH_BYTES = 16 * 2**20
TELL_EVERY = 2.0  # seconds
Tell = Callable[[str], None]


@dataclass(frozen=True)
class CopiedTable:
    name: str
    rows: int
    bytes: int


def copy_studio(source: Engine, target: Engine, tell: Tell = lambda _: None) -> list[CopiedTable]:
    """Every row of every table, and reads them again from the target before that is kept.

    `tell` gets lines of progress. Raises UserError where a run of the source is running, where the
    target is not empty, and where a row did not arrive as it was; nothing is kept then.
    """
    tables = schema.metadata.sorted_tables
    with read(source) as reader:
        _check_quiet(reader, source)
        with begin(target) as writer:
            take_turn(writer, "copy")
            _check_empty(writer, target)
            if target.dialect.name == "sqlite":  # a run may stand before its parent
                writer.execute(text("PRAGMA defer_foreign_keys = ON"))
            digests = {table.name: _copy(reader, writer, table, tell) for table in tables}
            for table in tables:
                if _digest(writer, table, tell) != digests[table.name]:
                    raise UserError(
                        f"rows of {table.name} are not what they were: nothing was copied",
                        where=where(target),
                        kind=ErrorKind.ERROR,
                    )
    return [CopiedTable(name, of.rows, of.bytes) for name, of in digests.items()]


def _check_quiet(connection: Connection, source: Engine) -> None:
    run = schema.run.c
    running = connection.scalars(select(run.id).where(run.status == "running")).all()
    if running:
        named = ", ".join(running[:3]) + (", …" if len(running) > 3 else "")
        raise UserError(
            f"{len(running)} runs are running ({named}): wait for their end, or cancel them; and "
            "stop the server",
            where=where(source),
            kind=ErrorKind.RUNNING,
        )


def _check_empty(connection: Connection, target: Engine) -> None:
    for table in schema.metadata.sorted_tables:
        if count := connection.scalar(select(func.count()).select_from(table)):
            raise UserError(
                f"holds {count} rows of {table.name} already: a studio is copied into an empty "
                "database",
                where=where(target),
            )


def _copy(reader: Connection, writer: Connection, table: Table, tell: Tell) -> Digest:
    digest = Digest()
    progress = _CopyProgress(f"copying {table.name}", tell)
    rows = _added(stored_rows(reader, table), digest)
    while batch := list(_batch(rows, digest)):
        store_rows(writer, table, batch)
        progress.report(digest)
    return digest


def _digest(connection: Connection, table: Table, tell: Tell) -> Digest:
    digest = Digest()
    progress = _CopyProgress(f"comparing {table.name}", tell)
    for number, _ in enumerate(_added(stored_rows(connection, table), digest)):
        if number % 1000 == 0:
            progress.report(digest)
    return digest


def _added(rows: Iterator[Row], digest: Digest) -> Iterator[Row]:
    for row in rows:
        digest.add(row)
        yield row


def _batch(rows: Iterator[Row], digest: Digest) -> Iterator[Row]:
    until = digest.bytes + BATCH_BYTES
    for row in itertools.islice(rows, BATCH_ROWS):
        yield row
        if digest.bytes > until:
            return


class _CopyProgress:
    def __init__(self, text: str, tell: Tell) -> None:
        self._text = text
        self._tell = tell
        self._next = time.monotonic() + TELL_EVERY

    def report(self, digest: Digest) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + TELL_EVERY
            self._tell(f"{self._text}: {digest.rows} rows, {digest.bytes / 1e6:.0f} MB")
