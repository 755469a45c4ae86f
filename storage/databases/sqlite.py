"""What is particular to SQLite.

It runs in WAL mode with one rule for transactions: those that write begin IMMEDIATE, so they wait
for their turn at the start and never fail half-way because another one wrote in between.
"""

import os
import shutil
import time
import unicodedata
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Connection, Engine, create_engine, event, func
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from opd.errors import ErrorKind, UserError
from opd.files import make_folder
from opd.open_files import database_connections
from storage.data_dir import DataDir
from storage.databases.address import shown
from storage.databases.failures import DiskFullError, read_only
from storage.files import archive, file_system

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
READS: dict[str, Any] = {}


def in_folder(folder: Path) -> URL:
    """The file in a data directory, which is made where it is missing. Raises UserError."""
    make_folder(folder, where=str(folder))
    data_dir = DataDir(folder.resolve())
    if not archive.is_read_only(data_dir.database):
        _check_locks(data_dir, folder)
    return URL.create("sqlite", database=str(data_dir.database))


def create(url: URL) -> Engine:
    options: dict[str, Any] = {}
    connections = database_connections(CONNECTIONS)
    path = Path(url.database or "")
    if url.database and archive.is_read_only(path):
        options["creator"] = archive.connect(path, sqlite)
    engine = create_engine(
        url,
        module=sqlite,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args={"timeout": BUSY_SECONDS, "isolation_level": None},
        pool_size=min(POOL, connections),
        max_overflow=max(0, connections - POOL),
        pool_timeout=POOL_SECONDS,
        **options,
    )
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def prepare(engine: Engine) -> None:
    """Before the first transaction that writes. Raises UserError for an archive of an older
    version, and for a file that another program has."""
    if archive.is_read_only(Path(engine.url.database or "")):
        raise UserError(
            "is of an older version and can only be read, not brought up to date: copy the data "
            "directory to a disk that can be written, and use the copy",
            where=shown(engine.url),
            kind=ErrorKind.READ_ONLY,
        )
    _use_wal(engine)


def named(error: DBAPIError, engine: Engine) -> UserError | None:
    """Full disks and read-only files by their names."""
    if _is_full(error, engine):
        return DiskFullError(shown(engine.url))
    if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == SQLITE_READONLY:
        return read_only(shown(engine.url))
    return None


def holds_text(column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """SQLite's own functions know only the case of ASCII letters."""
    condition: ColumnElement[bool] = func.opd_folded(column).contains(
        _folded(text), autoescape=True
    )
    return condition


def written(engine: Engine) -> None:
    """Empties a log that has outgrown its limit, which the automatic checkpoint cannot do while
    there is always some reader in it.

    In many short tries: SQLite waits for a lock that a reader of old pages has until it is free,
    and does not see that readers of the newest, who are in nobody's way, have come to share it.
    """
    try:
        if os.stat(f"{engine.url.database}-wal").st_size < WAL_LIMIT:
            return
    except OSError:
        return
    _empty_log(engine)


def _empty_log(engine: Engine) -> None:
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


def size(engine: Engine) -> int:
    """Bytes of the file."""
    return Path(engine.url.database or "").stat().st_size


def reclaim(engine: Engine, *, shrink: bool) -> None:
    """Room of deleted rows is used again by itself; `shrink` gives it back to the disk: the file is
    written anew while other writers wait. Raises UserError where there is no room for that."""
    if not shrink:
        return
    folder = Path(engine.url.database or "").parent
    with engine.connect() as connection:
        used, unused, page = (
            connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("page_count", "freelist_count", "page_size")
        )
    needed, free = (used - unused) * page, shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"needs {needed / 1e9:.2f} GB beside the file and as much in the folder of temporary "
            f"files, and the disk has {free / 1e9:.2f} GB",
            where=shown(engine.url),
            kind=ErrorKind.DISK_FULL,
        )
    raw = engine.raw_connection()
    try:
        raw.cursor().execute("VACUUM")
    except sqlite.OperationalError as error:
        if "full" in str(error):
            raise DiskFullError(shown(engine.url)) from None
        raise UserError(
            f"cannot be written anew now ({error}); try again",
            where=shown(engine.url),
            kind=ErrorKind.LOCKED,
        ) from None
    finally:
        raw.close()
    _empty_log(engine)


def advice() -> str | None:
    """What is wrong with the SQLite in use, or None."""
    if sqlite.sqlite_version_info >= SAFE_SQLITE:
        return None
    return (
        f"SQLite {sqlite.sqlite_version} can damage a database in WAL mode when several processes "
        "write (fixed in 3.51.3): pip install pysqlite3"
    )


def _folded(text: str | None) -> str:
    """The text without its case; letters with accents in one form."""
    normal = unicodedata.normalize("NFC", text or "").casefold()
    return unicodedata.normalize("NFC", normal)


def _check_locks(data_dir: DataDir, folder: Path) -> None:
    """Raises UserError where SQLite would wait for half a minute, and blame another program."""
    try:
        works = file_system.has_record_locks(data_dir.identity)
    except OSError:  # SQLite says why
        return
    if not works:
        raise UserError(file_system.no_record_locks(folder), where=str(folder))


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
    deadline = time.monotonic() + BUSY_SECONDS
    while not _try_wal(engine):
        # Changing the mode needs the file for itself and does not wait for it.
        if time.monotonic() > deadline:
            raise UserError(
                "is locked by another program", where=shown(engine.url), kind=ErrorKind.LOCKED
            )
        time.sleep(0.02)


def _try_wal(engine: Engine) -> bool:
    raw = engine.raw_connection()
    try:
        return bool(raw.cursor().execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal")
    except sqlite.OperationalError as error:
        if "locked" in str(error):
            return False
        raise UserError(f"cannot be opened: {error}", where=shown(engine.url)) from None
    finally:
        raw.close()


def _wait_at_most(cursor: Any, seconds: float) -> None:
    """For a lock that another connection has."""
    cursor.execute(f"PRAGMA busy_timeout={round(seconds * 1000)}")


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
