"""What is particular to PostgreSQL.

A transaction that reads sees one moment (REPEATABLE READ). One that writes is READ COMMITTED: it
locks the rows that it will change, or takes a turn (see turns.py), so that nothing is written upon
what another one has changed meanwhile. The driver, psycopg, is loaded when a database is opened.
"""

import re
import select
import time
import unicodedata
import weakref
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Engine, create_engine, event, func, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidatePoolError, OperationalError

from opd.errors import ErrorKind, UserError, one_line
from storage.databases.address import shown
from storage.databases.failures import DatabaseGoneError, DiskFullError, read_only
from storage.databases.nul import MARK, escaped_json, restored_json

POOL, CONNECTIONS = 4, 20  # kept, and at most, of one process; the server's own limit is often 100
POOL_SECONDS = 120  # for one to be free
CONNECT_SECONDS = 10
LOCK_SECONDS = 30  # for a row that another transaction has
IDLE_SECONDS = 300  # within a transaction, after which the server ends it: its host may have died
READS: dict[str, Any] = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
# A peer that has vanished is noticed within a minute, on both ends.
KEEPALIVES = {"keepalives_idle": 20, "keepalives_interval": 10, "keepalives_count": 3}
PING_AFTER = 5.0  # seconds without use
SESSION = {
    "lock_timeout": f"{LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
    "client_min_messages": "warning",
}
TCP_SESSION = {f"tcp_{name}": str(value) for name, value in KEEPALIVES.items()}
# Of a server that is there and will not have us, whenever it is asked again
_REFUSED = re.compile(
    r"password authentication failed|no password supplied|pg_hba\.conf|(database|role) \".*\" does "
    r"not exist|authentication failed|SSL|certificate|invalid (connection option|port)",
    re.I,
)
_MARK = MARK.encode()


def create(url: URL) -> Engine:
    """Raises UserError where psycopg is missing."""
    try:
        engine = create_engine(
            url,
            json_serializer=_json,
            json_deserializer=_of_json,
            pool_size=POOL,
            max_overflow=CONNECTIONS - POOL,
            pool_timeout=POOL_SECONDS,
            connect_args={
                "cursor_factory": _cursors(),
                "connect_timeout": CONNECT_SECONDS,
                "application_name": "opd-studio",
                **KEEPALIVES,
                "tcp_user_timeout": 40_000,
                **{name: value for name, value in url.query.items() if name in KEEPALIVES},
            },
        )
    except ImportError:
        raise UserError(
            "needs psycopg: pip install 'opd-studio[postgres]'",
            where="--database-url",
            kind=ErrorKind.MISSING_EXTRA,
        ) from None
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "checkin", _note_time)
    event.listen(engine, "checkout", _ping)
    weakref.finalize(engine, engine.pool.dispose)  # also at the end of the process
    return engine


def prepare(engine: Engine) -> None:
    """Before the first transaction that writes. Raises UserError for a database in which texts
    would be lost."""
    with engine.connect() as connection:
        encoding = connection.scalar(text("SHOW server_encoding"))
    if encoding != "UTF8":
        raise UserError(
            f"has encoding {encoding}; texts need UTF8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE "
            "template0",
            where=shown(engine.url),
            kind=ErrorKind.NOT_OUR_DATABASE,
        )


def named(error: DBAPIError, engine: Engine) -> UserError | None:
    """What a server says of itself, and that it says nothing."""
    where, message = shown(engine.url), one_line(error.orig or error)
    state = str(getattr(error.orig, "sqlstate", None) or "")
    if isinstance(error, IntegrityError):
        return None
    if state == "53100":
        return DiskFullError(where)
    if state == "25006":
        return read_only(where)
    if state in ("55P03", "40P01", "40001"):
        return UserError(
            f"another transaction holds what this one needs ({message}); try again",
            where=where,
            kind=ErrorKind.LOCKED,
        )
    if state in ("42501", "28000", "28P01", "3D000") or (not state and _REFUSED.search(message)):
        return UserError(f"cannot be opened: {message}", where=where)
    silent = isinstance(error, OperationalError) and not state
    gone = state.startswith(("08", "57P")) or state in ("25P03", "53300")
    if silent or gone or error.connection_invalidated:
        return DatabaseGoneError(where, message)
    return None


def written(engine: Engine) -> None:
    """After a transaction that wrote: nothing is to be done."""


def size(engine: Engine) -> int:
    """Bytes that the database takes on the server."""
    with engine.connect() as connection:
        return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)


def reclaim(engine: Engine, *, shrink: bool) -> None:
    """Room of deleted rows can be used again from now on. `shrink` gives it back to the disk:
    each table is written anew, and meanwhile nobody reads it."""
    how = "FULL, ANALYZE" if shrink else "ANALYZE, SKIP_LOCKED"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in inspect(connection).get_table_names():
            connection.execute(text(f'VACUUM ({how}) "{table}"'))


def holds_text(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Python's own folding, as far as servers know it: lower case, with ß and the final sigma."""
    lower: ColumnElement[str] = func.lower(func.normalize(column).collate("und-x-icu"))
    for letter, folded in (("ß", "ss"), ("ς", "σ")):
        lower = func.replace(lower, letter, folded)
    folded_text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    condition: ColumnElement[bool] = lower.contains(folded_text, autoescape=True)
    return condition


def _cursors() -> type[Any]:
    """Raises ImportError where psycopg is missing."""
    from psycopg import Cursor, pq  # noqa: PLC0415 - an extra

    class BinaryCursor(Cursor[Any]):
        """Asks for results as they are stored: records would come as hexadecimal text."""

        def execute(self, query: Any, *arguments: Any, **options: Any) -> Any:
            of_types = "pg_catalog" in str(query)  # of types that SQLAlchemy reads as text
            self.format = pq.Format.TEXT if of_types else pq.Format.BINARY
            return super().execute(query, *arguments, **options)

    return BinaryCursor


def _note_time(_: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()


def _ping(connection: Any, record: Any, _: Any) -> None:
    """Whether the server is still there, before a connection is used again: a question where it was
    idle, else only where the server has said something, as that it ends."""
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    fresh = time.monotonic() - record.info.get("used", 0.0) < PING_AFTER
    if fresh and not waiting.poll(0):
        return
    from psycopg import Error  # noqa: PLC0415 - an extra

    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except Error as error:
        raise InvalidatePoolError from error


def _set_up(connection: Any, record: Any) -> None:
    from psycopg.types.string import StrDumper  # noqa: PLC0415 - an extra

    class WithoutNul(StrDumper):
        """What is no text of ours, as an id to look for, may hold anything."""

        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd") if "\0" in obj else obj)

    connection.adapters.register_dumper(str, WithoutNul)
    local = connection.info.host.startswith("/")
    settings = SESSION if local else SESSION | TCP_SESSION
    calls = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in settings.items())
    connection.execute(f"SELECT {calls}")
    connection.commit()
    _note_time(connection, record)


def _json(value: Any) -> str:
    return escaped_json(orjson.dumps(value).decode())


def _of_json(data: bytes) -> Any:
    return orjson.loads(restored_json(data.decode()) if _MARK in data else data)
