"""A database whose file is moved, deleted or replaced while it is open."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from storage.engine import open_database
from storage.files import presence
from storage.files.presence import gone
from storage.queue import jobs

pytestmark = pytest.mark.sqlite_only("SQLite's file is moved or replaced")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def engine(folder: Path) -> Iterator[Engine]:
    opened = open_database(folder)
    jobs.create_run(opened, parse({}))
    assert not gone(opened)
    yield opened
    opened.dispose()


def refused(engine: Engine) -> str:
    with pytest.raises(UserError, match="nothing was stored") as error:
        jobs.create_run(engine, parse({}))
    assert error.value.kind is ErrorKind.DIRECTORY_GONE
    return str(error.value)


def test_a_moved_directory_takes_no_more_runs_until_it_is_back(
    engine: Engine, folder: Path
) -> None:
    folder.rename(folder.with_name("moved"))
    assert "moved, deleted or unmounted" in refused(engine)
    assert not folder.exists(), "nothing is made in its place"
    folder.with_name("moved").rename(folder)
    assert jobs.create_run(engine, parse({}))


def test_a_replaced_file_is_not_written_past(engine: Engine, folder: Path) -> None:
    folder.rename(folder.with_name("old"))
    shutil.copytree(folder.with_name("old"), folder)
    assert "was replaced by another file" in refused(engine)


def test_a_file_whose_number_changed_is_the_same(engine: Engine) -> None:
    presence._opened[engine] = (1, 2)
    assert not gone(engine)
