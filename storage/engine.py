"""Opens the database. All that is particular to SQLite stands in this module.

SQLite runs in WAL mode with one rule for transactions: those that write begin IMMEDIATE, so they
wait for their turn at the start and never fail half-way because another one wrote in between.
"""

import contextlib
import os
import shutil
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Float,
    create_engine,
    event,
    func,
    make_url,
)
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from opd.errors import ErrorKind, UserError, lacks_room
from opd.files import make_folder
from opd.open_files import database_connections
from storage import migrate
from storage.data_dir import DataDir
from storage.files import archive, file_system, presence

try:
    from pysqlite3 import dbapi2 as sqlite
except ImportError:  # no wheel for this platform
    import sqlite3 as sqlite

BUSY_SECONDS = 30
POOL, CONNECTIONS = 8, 72  # kept, and at most, where files may be open in plenty
POOL_SECONDS = 120  # for one to be free
WAL_LIMIT = 64 * 2**20  # bytes; readers that overlap for ever would let the log grow without end
WAL_TRIES = 60  # to empty it, within BUSY_SECONDS
SQLITE_READONLY, SQLITE_IOERR, SQLITE_FULL = 8, 10, 13
SAFE_SQLITE = (3, 51, 3)


class DiskFullError(UserError):
    """There is no room for what was to be written; nothing of that transaction was kept."""

    def __init__(self, where: str) -> None:
        super().__init__(
            "the disk is full: free some space, then resume the run",
            where=where,
            kind=ErrorKind.DISK_FULL,
        )


def open_database(url_or_dir: str | Path) -> Engine:
    """The database in a folder (created when missing) or at a URL, migrated to this version.

    Raises UserError for a folder that cannot be written, a file that is no database of ours and
    one that a newer version has written; that one is left as it is.
    """
    engine = _engine(_url(url_or_dir))
    try:
        with _named(engine):
            if not migrate.at_head(engine):
                _check_writable(engine)
                _use_wal(engine)
                with begin(engine) as connection:
                    migrate.upgrade(connection)
    except UserError:
        engine.dispose()
        raise
    except DBAPIError as error:
        engine.dispose()
        raise UserError(f"cannot be opened: {error.orig}", where=where(engine)) from None
    if _is_sqlite(engine):
        presence.watch(engine)
    return engine


@contextlib.contextmanager
def begin(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; commits at the end, rolls back when an error leaves the block.

    Raises DiskFullError, and UserError where the file has gone or can only be read."""
    presence.check(engine)
    with _named(engine), engine.connect() as connection:
        connection.execution_options(opd_writes=True)
        with connection.begin():
            yield connection
    _bound_wal(engine)


@contextlib.contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """One consistent view of the database; short, because the log cannot shrink under it."""
    with _named(engine), engine.connect() as connection, connection.begin():
        yield connection


class DatabaseTime(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, which all hosts that share it have in common."""

    type = Float()
    inherit_cache = True


@compiles(DatabaseTime)
def _clock_of_server(_element: DatabaseTime, _compiler: Any, **_: Any) -> str:
    return "EXTRACT(EPOCH FROM CLOCK_TIMESTAMP())"


@compiles(DatabaseTime, "sqlite")
def _clock_of_sqlite(_element: DatabaseTime, _compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"  # of this host, to the millisecond


def holds_text(engine: Engine, column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Whether the column holds the text, in whatever case; SQLite's own functions know only that
    of ASCII letters."""
    if not _is_sqlite(engine):
        return column.icontains(text, autoescape=True)
    folded: ColumnElement[bool] = func.opd_folded(column).contains(_folded(text), autoescape=True)
    return folded


def _folded(text: str | None) -> str:
    """The text without its case; letters with accents in one form."""
    normal = unicodedata.normalize("NFC", text or "").casefold()
    return unicodedata.normalize("NFC", normal)


def where(engine: Engine) -> str:
    """The database as errors name it: its file, or its URL without the password."""
    return engine.url.database or "" if _is_sqlite(engine) else str(engine.url)


def sqlite_advice(database_url: str | None = None) -> str | None:
    """What is wrong with the SQLite in use, or None; so where another database is named."""
    other = database_url is not None and not database_url.startswith("sqlite")
    if other or sqlite.sqlite_version_info >= SAFE_SQLITE:
        return None
    return (
        f"SQLite {sqlite.sqlite_version} can damage a database in WAL mode when several processes "
        "write (fixed in 3.51.3): pip install pysqlite3"
    )


def _url(url_or_dir: str | Path) -> URL:
    if "://" in str(url_or_dir):
        try:
            return make_url(str(url_or_dir))
        except ArgumentError:
            raise UserError("not a database URL", where="database URL") from None
    folder = Path(url_or_dir).expanduser()
    make_folder(folder, where=str(folder))
    data_dir = DataDir(folder.resolve())
    if not archive.is_read_only(data_dir.database):
        _check_locks(data_dir, folder)
    return URL.create("sqlite", database=str(data_dir.database))


def _check_locks(data_dir: DataDir, folder: Path) -> None:
    """Raises UserError where SQLite would wait for half a minute, and blame another program."""
    try:
        works = file_system.has_record_locks(data_dir.identity)
    except OSError:  # SQLite says why
        return
    if not works:
        raise UserError(file_system.no_record_locks(folder), where=str(folder))


def _check_writable(engine: Engine) -> None:
    """Raises UserError for an archive of an older version."""
    if _is_sqlite(engine) and archive.is_read_only(Path(engine.url.database or "")):
        raise UserError(
            "is of an older version and can only be read, not brought up to date: copy the data "
            "directory to a disk that can be written, and use the copy",
            where=where(engine),
            kind=ErrorKind.READ_ONLY,
        )


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
    }
    if url.get_backend_name() != "sqlite":
        return create_engine(url, **options)
    connections = database_connections(CONNECTIONS)
    path = Path(url.database or "")
    if url.database and archive.is_read_only(path):
        options["creator"] = archive.connect(path, sqlite)
    engine = create_engine(
        url,
        module=sqlite,
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
        pool_size=min(POOL, connections),
        max_overflow=max(0, connections - POOL),
        pool_timeout=POOL_SECONDS,
        **options,
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def _set_up(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    _wait_at_most(cursor, BUSY_SECONDS)
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute(f"PRAGMA journal_size_limit={WAL_LIMIT}")
    cursor.close()
    connection.create_function("opd_folded", 1, _folded, deterministic=True)


def _begin(connection: Connection) -> None:
    # The driver is in autocommit mode: left to itself it would commit before and after DDL.
    writes = connection.get_execution_options().get("opd_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _use_wal(engine: Engine) -> None:
    if not _is_sqlite(engine):
        return
    deadline = time.monotonic() + BUSY_SECONDS
    while not _try_wal(engine):
        # Changing the mode needs the file for itself and does not wait for it.
        if time.monotonic() > deadline:
            raise UserError(
                "is locked by another program", where=where(engine), kind=ErrorKind.LOCKED
            )
        time.sleep(0.02)


def _try_wal(engine: Engine) -> bool:
    raw = engine.raw_connection()
    try:
        return bool(raw.cursor().execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal")
    except sqlite.OperationalError as error:
        if "locked" in str(error):
            return False
        raise UserError(f"cannot be opened: {error}", where=where(engine)) from None
    finally:
        raw.close()


def _bound_wal(engine: Engine) -> None:
    """Empties a log that has outgrown its limit, which the automatic checkpoint cannot do while
    there is always some reader in it.

    In many short tries: SQLite waits for a lock that a reader of old pages has until it is free,
    and does not see that readers of the newest, who are in nobody's way, have come to share it.
    """
    if not _is_sqlite(engine):
        return
    try:
        if os.stat(f"{engine.url.database}-wal").st_size < WAL_LIMIT:
            return
    except OSError:
        return
    raw = engine.raw_connection()
    cursor = raw.cursor()
    try:
        _wait_at_most(cursor, BUSY_SECONDS / WAL_TRIES)
        for _ in range(WAL_TRIES):
            busy, _, _ = cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                break
    except sqlite.OperationalError:
        return  # busy or no room: what was written is safe in the log, and the next one tries again
    finally:
        _wait_at_most(cursor, BUSY_SECONDS)
        raw.close()


def _wait_at_most(cursor: Any, seconds: float) -> None:
    """For a lock that another connection has."""
    cursor.execute(f"PRAGMA busy_timeout={round(seconds * 1000)}")


@contextlib.contextmanager
def _named(engine: Engine) -> Iterator[None]:
    """Full disks and read-only files by their names."""
    try:
        yield
    except DBAPIError as error:
        if _is_full(error, engine):
            raise DiskFullError(where(engine)) from error
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == SQLITE_READONLY:
            text = "can only be read: nothing was stored"
            raise UserError(text, where=where(engine), kind=ErrorKind.READ_ONLY) from error
        raise
    except OSError as error:
        if lacks_room(error):
            raise DiskFullError(where(engine)) from error
        raise


def _is_full(error: DBAPIError, engine: Engine) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
    if code == SQLITE_FULL or "disk is full" in str(error.orig):
        return True
    if code != SQLITE_IOERR or not engine.url.database:
        return False
    # The log's index is mapped memory, and growing it reports a full disk as an I/O error.
    try:
        return shutil.disk_usage(Path(engine.url.database).parent).free < 2**20
    except OSError:
        return False


def _is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"
