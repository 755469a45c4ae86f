"""Opens the database, which is SQLite's file or a PostgreSQL server's; what is particular to either
stands in `storage.databases`."""

import contextlib
import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Float
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from opd.errors import ErrorKind, UserError, lacks_room
from storage import migrate
from storage.data_dir import is_shared
from storage.databases import address, postgresql, sqlite
from storage.databases.failures import DatabaseGoneError, DiskFullError
from storage.files import presence

PATIENCE = 600.0  # seconds that a write waits for a database server which is gone
AGAIN_AFTER = (0.2, 0.5, 1.0, 2.0)  # seconds; the last one again and again
log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
OLDER = "is of another version of OPD Studio: install one version on all hosts"


def open_database(url_or_dir: str | Path, *, upgrade: bool = True) -> Engine:
    """The database in a folder (created when missing) or at a URL, migrated to this version.

    Raises UserError for a folder that cannot be written, a server that cannot be reached or lets
    nobody in, a database that is none of ours and one that a newer version has written; that one is
    left as it is.
    """
    engine = connected(url_or_dir)
    try:
        with _named(engine):
            if not migrate.at_head(engine):
                if not upgrade:
                    raise UserError(OLDER, where=where(engine), kind=ErrorKind.NEWER_SCHEMA)
                _database(engine).prepare(engine)
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


def connected(url_or_dir: str | Path) -> Engine:
    """As `open_database`, of whatever schema it is."""
    url = _url(url_or_dir)
    return sqlite.create(url) if url.get_backend_name() == "sqlite" else postgresql.create(url)


@contextlib.contextmanager
def begin(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; commits at the end, rolls back when an error leaves the block.

    Raises DiskFullError, DatabaseGoneError, and UserError where the file has gone or can only be
    read."""
    presence.check(engine)
    with _named(engine), engine.connect() as connection:
        connection.execution_options(opd_writes=True)
        with connection.begin():
            yield connection
    _database(engine).written(engine)


@contextlib.contextmanager
def read(engine: Engine) -> Iterator[Connection]:
    """One consistent view of the database; short, because the log cannot shrink under it."""
    with _named(engine), engine.connect() as connection:
        connection.execution_options(**_database(engine).READS)
        with connection.begin():
            yield connection


def patient(write: Callable[P, T], seconds: float | None = None) -> Callable[P, T]:
    """A write that is made again while the database server is gone, for up to `seconds` (PATIENCE).

    Only for what may be made twice: a connection that breaks while a transaction commits leaves
    open whether it did."""

    @functools.wraps(write)
    def until_it_answers(*args: P.args, **kwargs: P.kwargs) -> T:
        until, patience = 0.0, PATIENCE if seconds is None else seconds
        for pause in itertools.chain(AGAIN_AFTER, itertools.repeat(AGAIN_AFTER[-1])):
            try:
                return write(*args, **kwargs)
            except DatabaseGoneError as error:
                now = time.monotonic()
                if not until:
                    until = now + patience
                    log.warning("%s; trying again for %.0f s", error, patience)
                if now > until:
                    raise
            time.sleep(pause)
        raise AssertionError

    return until_it_answers


class DatabaseTime(FunctionElement[float]):
    """Seconds since 1970 by the database's clock, which all hosts that share it have in common."""

    type = Float()
    inherit_cache = True


@compiles(DatabaseTime)
def _clock_of_server(_element: DatabaseTime, _compiler: Any, **_: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM CLOCK_TIMESTAMP()) AS DOUBLE PRECISION)"


@compiles(DatabaseTime, "sqlite")
def _clock_of_sqlite(_element: DatabaseTime, _compiler: Any, **_: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"  # of this host, to the millisecond


def holds_text(engine: Engine, column: ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Whether the column holds the text, in whatever case."""
    condition: ColumnElement[bool] = _database(engine).holds_text(column, text)
    return condition


def size(engine: Engine) -> int:
    """Bytes that the database takes on its disk."""
    return int(_database(engine).size(engine))


def reclaim(engine: Engine, *, shrink: bool = False) -> None:
    """Room of deleted rows can be used again; `shrink` gives it back to the disk, while others
    wait. Raises UserError."""
    presence.check(engine)
    with _named(engine):
        _database(engine).reclaim(engine, shrink=shrink)


def where(engine: Engine) -> str:
    """The database as errors name it: its file, or its URL without the password."""
    return address.shown(engine.url)


def sqlite_advice(database_url: str | None = None) -> str | None:
    """What is wrong with the SQLite in use, or None; so where another database is named."""
    return None if is_shared(database_url) else sqlite.advice()


def _url(url_or_dir: str | Path) -> URL:
    if "://" in str(url_or_dir):
        return address.parsed(str(url_or_dir))
    return sqlite.in_folder(Path(url_or_dir).expanduser())


@contextlib.contextmanager
def _named(engine: Engine) -> Iterator[None]:
    """What befalls a database by its name."""
    try:
        yield
    except DBAPIError as error:
        if (failure := _database(engine).named(error, engine)) is not None:
            raise failure from error
        raise
    except OSError as error:
        if lacks_room(error):
            raise DiskFullError(where(engine)) from error
        raise


def _database(engine: Engine) -> ModuleType:
    """What is particular to the engine's database."""
    return sqlite if _is_sqlite(engine) else postgresql


def _is_sqlite(engine: Engine) -> bool:
    return engine.dialect.name == "sqlite"
