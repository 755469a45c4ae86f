"""The database that tests work on: SQLite's, or with OPD_TEST_DATABASE=postgresql one of a
throw-away server, which each process of the tests starts for itself.

A folder stands for its database. Processes are told by `environment`; those that inherit the
environment of a test find the database that the test has opened last.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.cli.workspace import DATABASE_VARIABLE
from bench.support.postgresql import PostgresqlServer, binaries, throwaway
from storage import schema
from storage.data_dir import DataDir
from storage.engine import open_database
from tests.support.hosts.network import lacking

ON_POSTGRESQL = os.environ.get("OPD_TEST_DATABASE") == "postgresql"
TEMPLATE = "migrated"
_names: dict[Path, str] = {}  # of the databases that stand for folders
_migrated_ones: set[Path] = set()
_free: list[str] = []
_numbers = itertools.count()
_running = ExitStack()
_patches: list[pytest.MonkeyPatch] = []  # that of the test which runs


def address(folder: Path) -> Path | str:
    """Of a database that nobody has opened yet; of one folder, it is always the same."""
    return _url(folder, "template0") if ON_POSTGRESQL else folder


def new_database(folder: Path) -> Engine:
    """As `open_database`; a new one is copied from one that was migrated once in this process.

    What `open_database` makes of an empty database by itself, `tests/storage/test_engine.py` tests.
    """
    if ON_POSTGRESQL:
        folder.mkdir(parents=True, exist_ok=True)
        url = _url(folder, TEMPLATE)
        for patch in _patches:
            patch.setenv(DATABASE_VARIABLE, url)
        return open_database(url)
    file = DataDir(folder).database
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_bytes(_migrated())
    return open_database(folder)


def environment(folder: Path) -> dict[str, str]:
    """What processes need beside the folder to find its database."""
    return {DATABASE_VARIABLE: _url(folder, TEMPLATE)} if ON_POSTGRESQL else {}


def needed() -> None:
    """Skips the test where there is no PostgreSQL server, and fails where there must be one."""
    lacking("postgres", "there is no PostgreSQL server on this machine" if not binaries() else "")


@cache
def server() -> PostgresqlServer:
    """Started when first asked for, and ended with the tests."""
    needed()
    started = _running.enter_context(throwaway())
    started.sql(f"CREATE DATABASE {TEMPLATE}")
    open_database(started.url(TEMPLATE)).dispose()
    return started


@contextmanager
def cleared() -> Iterator[None]:
    """What is made inside goes at the end; a migrated database is emptied, for the next test."""
    before = set(_names)
    with pytest.MonkeyPatch.context() as patch:
        _patches.append(patch)
        yield
        _patches.remove(patch)
    for folder in _names.keys() - before:
        name = _names.pop(folder)
        if folder in _migrated_ones:
            tables = ", ".join(f'"{table}"' for table in schema.metadata.tables)
            server().sql(f"TRUNCATE {tables}", name)
            _free.append(name)
        else:
            server().sql(f"DROP DATABASE {name} WITH (FORCE)")
    _migrated_ones.intersection_update(_names)


def end() -> None:
    """The server, if there is one."""
    _running.close()


def _url(folder: Path, template: str) -> str:
    folder = folder.resolve()
    if folder not in _names:
        _names[folder] = _made(template)
        if template == TEMPLATE:
            _migrated_ones.add(folder)
    return server().url(_names[folder])


def _made(template: str) -> str:
    if template == TEMPLATE and _free:
        return _free.pop()
    name = f"test_{next(_numbers)}"
    server().sql(f"CREATE DATABASE {name} TEMPLATE {template}")
    return name


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        open_database(folder).dispose()
        return DataDir(Path(folder)).database.read_bytes()
