"""`opd copy`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.fill import fill
from storage.engine import open_database
from storage.read.runs import read_runs
from tests.support.databases import matrix

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _studio(tmp_path: Path) -> None:
    engine = open_database(tmp_path / "data")
    fill(engine, 2, 1000)
    engine.dispose()


def runs(address: Path | str) -> list[str]:
    engine = open_database(address)
    names = [run["id"] for run in read_runs(engine)["items"]]
    engine.dispose()
    return names


def test_a_studio_is_copied_and_counted(opd: Run, tmp_path: Path) -> None:
    code, out, err = opd("copy", "--to", str(tmp_path / "other"))
    assert code == 0
    assert "token_record" in out and "compared: all equal" in err
    assert runs(tmp_path / "other") == runs(tmp_path / "data")
    code, out, _ = opd(
        "copy", "--from", str(tmp_path / "other"), "--to", f"sqlite:///{tmp_path}/x.db", "--json"
    )
    assert json.loads(out)["tables"]["run"]["rows"] == 2
    code, _, err = opd("copy", "--to", str(tmp_path / "other"))
    assert code == 2 and "holds 2 rows of run already" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", ""), "--to: must name a database"),
        (("--to", "mysql://a:hush@b/c"), "must begin with sqlite:///"),
        (("--from", "{tmp}/none", "--to", "{tmp}/x"), "there is no database {tmp}/none/studio.db"),
        (("--from", "{tmp}/data", "--to", "{tmp}/data"), "is the database that is copied"),
    ],
)
def test_bad_input_is_named(
    opd: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = opd("copy", *(a.format(tmp=tmp_path) for a in arguments))
    assert (code, out) == (2, "")
    assert message.format(tmp=tmp_path) in err and "hush" not in err
    assert not (tmp_path / "none").exists()


@pytest.mark.engines
def test_there_and_back(opd: Run, tmp_path: Path) -> None:
    matrix.needed()
    server = matrix.server()
    server.sql("CREATE DATABASE copied")
    url = server.url("copied")
    assert opd("copy", "--to", url)[0] == 0
    assert opd("copy", "--from", url, "--to", str(tmp_path / "back"))[0] == 0
    assert runs(url) == runs(tmp_path / "back") == runs(tmp_path / "data")
    server.sql("DROP DATABASE copied WITH (FORCE)")
