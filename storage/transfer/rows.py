"""Rows of a table as they are stored, whichever database holds them: texts and JSON with every
character, and their sum."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import JSON, Connection, Table, Text, cast, exc, select, type_coerce
from sqlalchemy.types import BigInteger, Boolean, Float, Integer, LargeBinary

from storage.databases.nul import escaped, escaped_json, restored, restored_json

Row = tuple[Any, ...]
READ_AT_ONCE = 500
# What PostgreSQL's binary COPY calls the columns; JSON is sent as the text that it is
_TYPES = (
    *((JSON, "text"), (Boolean, "bool"), (BigInteger, "int8"), (Integer, "int4")),
    *((Float, "float8"), (LargeBinary, "bytea")),
)


class Digest:
    """The sum of digests of rows, in whatever order they come."""

    def __init__(self) -> None:
        self.rows = 0
        self.bytes = 0
        self._sum = 0

    def add(self, row: Row) -> None:
        digest = hashlib.blake2b(digest_size=16)
        for value in row:
            data = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(b"%c%d:" % (b"b" if isinstance(value, bytes) else b"r", len(data)))
            digest.update(data)
            self.bytes += len(data)
        self.rows += 1
        self._sum = (self._sum + int.from_bytes(digest.digest())) % 2**128

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Digest) and (self.rows, self._sum) == (other.rows, other._sum)
        return bool(same)

    __hash__ = None  # type: ignore[assignment]


def stored_rows(connection: Connection, table: Table) -> Iterator[Row]:
    """All rows, without keeping them in memory."""
    server = connection.dialect.name != "sqlite"
    columns = [_raw(column, server) for column in table.c]
    changes = [
        (number, restored_json if isinstance(column.type, JSON) else restored)
        for number, column in enumerate(table.c)
        if server and _type(column) == "text"
    ]
    query = select(*columns).select_from(table)
    rows = connection.execute(query, execution_options={"yield_per": READ_AT_ONCE})
    for partition in rows.partitions():
        for row in partition:
            values = list(row)
            for number, change in changes:
                if values[number] is not None:
                    values[number] = change(values[number])
            yield tuple(values)


def store_rows(connection: Connection, table: Table, rows: Iterable[Sequence[Any]]) -> None:
    """Inside the caller's transaction. Raises DBAPIError."""
    names = ", ".join(f'"{column.name}"' for column in table.c)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(table.c))
        statement = f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})'
        connection.exec_driver_sql(statement, list(map(tuple, rows)))
        return
    from psycopg import Error, OperationalError  # noqa: PLC0415 - an extra

    statement = f'COPY "{table.name}" ({names}) FROM STDIN (FORMAT BINARY)'
    try:
        _copy_in(connection, table, statement, rows)
    except Error as error:
        kind = exc.OperationalError if isinstance(error, OperationalError) else exc.DBAPIError
        raise kind(statement, None, error) from error


def _copy_in(
    connection: Connection, table: Table, statement: str, rows: Iterable[Sequence[Any]]
) -> None:
    changes = [escaped_json if isinstance(c.type, JSON) else escaped for c in table.c]
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types([_type(column) for column in table.c])
        for row in rows:
            copy.write_row(
                [
                    change(value) if isinstance(value, str) else value
                    for change, value in zip(changes, row, strict=True)
                ]
            )


def _raw(column: Any, server: bool) -> Any:
    if isinstance(column.type, JSON):
        return cast(column, Text) if server else type_coerce(column, Text)
    return type_coerce(column, Text) if _is_text(column) else column


def _is_text(column: Any) -> bool:
    return isinstance(getattr(column.type, "impl", None), Text)


def _type(column: Any) -> str:
    return next((name for kind, name in _TYPES if isinstance(column.type, kind)), "text")
