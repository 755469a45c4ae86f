"""Reading where nothing can be written; a folder whose user may not write, to us."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from storage import migrate
from storage.engine import begin, open_database
from storage.files import archive
from storage.queue import jobs
from storage.read.runs import read_runs
from tests.support.fake_training import ROOT

pytestmark = pytest.mark.sqlite_only(
    "SQLite's file cannot be written; twin: test_a_server_that_can_only_be_read_is_named"
)

QUEUE = (
    "import os, sys; from opd.config.run import parse; from storage.engine import open_database\n"
    "from storage.queue import jobs; jobs.create_run(open_database(sys.argv[1]), parse({}))\n"
    "os._exit(0)"  # the log stays
)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """With one run in the file and one in its log."""
    engine = open_database(tmp_path / "data")
    jobs.create_run(engine, parse({}))
    engine.dispose()
    subprocess.run([sys.executable, "-c", QUEUE, tmp_path / "data"], cwd=ROOT, check=True)
    assert (tmp_path / "data" / "studio.db-wal").stat().st_size
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def read_only(monkeypatch: pytest.MonkeyPatch, killed: Path) -> None:
    monkeypatch.setattr(archive, "is_read_only", lambda path: path.is_file())


def runs(folder: Path) -> int:
    engine = open_database(folder)
    total = int(read_runs(engine)["total"])
    with pytest.raises(UserError, match="can only be read: nothing was stored") as refused:
        jobs.create_run(engine, parse({}))
    assert refused.value.kind is ErrorKind.READ_ONLY
    engine.dispose()
    return total


def test_with_a_log_and_its_index(killed: Path) -> None:
    assert runs(killed) == 2


def test_with_a_log_whose_index_is_missing(killed: Path) -> None:
    (killed / "studio.db-shm").unlink()
    assert runs(killed) == 2, "what is in the log counts"
    assert not (killed / "studio.db-shm").exists()


def test_without_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    engine = open_database(tmp_path / "clean")
    jobs.create_run(engine, parse({}))
    engine.dispose()
    monkeypatch.setattr(archive, "is_read_only", lambda path: path.is_file())
    before = sorted(p.name for p in (tmp_path / "clean").iterdir())
    assert runs(tmp_path / "clean") == 1
    assert sorted(p.name for p in (tmp_path / "clean").iterdir()) == before


def test_an_older_version_is_not_brought_up_to_date(
    killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "at_head", lambda _: False)
    with pytest.raises(UserError, match="of an older version and can only be read") as refused:
        open_database(killed)
    assert refused.value.kind is ErrorKind.READ_ONLY


def test_what_can_be_written_is_no_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    path = tmp_path / "studio.db"
    assert not archive.is_read_only(path), "there is none"
    with begin(open_database(tmp_path)):
        pass
    assert not archive.is_read_only(path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert archive.is_read_only(path)
