"""Names, tags and deletion from the command line: what is changed, and what is refused."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from app.cli import editing, inspect_runs
from app.cli.commands import commands as app
from opd.config.run import parse
from opd.errors import UserError
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.runs import read_run, read_runs
from tests.support.databases.matrix import new_database
from tests.support.stored_runs import OWNER


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def engine(folder: Path) -> Engine:
    return new_database(folder)


def opd(folder: Path, *arguments: str, code: int = 0) -> str:
    """What a command printed; of one that failed, the error."""
    done = CliRunner().invoke(app, [*arguments, "--data-dir", str(folder)])
    if code:
        return str(done.exception) if isinstance(done.exception, UserError) else done.output
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_run_is_renamed(folder: Path, engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({"name": "a"}))
    assert opd(folder, "rename", run_id, "Größe b") == f"{run_id}  Größe b\n"
    answer = json.loads(opd(folder, "rename", run_id, "c", "--json"))
    assert answer == {"id": run_id, "name": "c", "notes": "", "tags": [], "version": 3}
    assert "control characters" in opd(folder, "rename", run_id, "a\x1b[31m", code=2)
    assert "1 to 200 characters (got 0)" in opd(folder, "rename", run_id, " ", code=2)
    assert "run-none: no such run" in opd(folder, "rename", "run-none", "a", code=2)
    assert read_run(engine, run_id)["name"] == "c"


def test_tags_are_added_and_removed_beside_others(folder: Path, engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}), tags=("kept", "old"))
    assert opd(folder, "tag", run_id) == f"{run_id}  kept, old\n"
    assert opd(folder, "tag", run_id, "b", "a", "--remove", "old") == f"{run_id}  a, b, kept\n"
    answer = json.loads(opd(folder, "tag", run_id, "--remove", "a", "--remove", "b", "--json"))
    assert (answer["tags"], answer["version"]) == (["kept"], 3)
    assert "to be added and removed" in opd(folder, "tag", run_id, "x", "--remove", "x", code=2)
    assert "control characters" in opd(folder, "tag", run_id, "a\nb", code=2)
    assert opd(folder, "tag", run_id, "--remove", "kept") == f"{run_id}  no tags\n"


def test_runs_are_deleted_together_or_not_at_all(
    folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (jobs.create_run(engine, parse({})) for _ in range(2))
    assert "give --yes" in opd(folder, "delete", first, code=2)
    attempt = jobs.claim(engine, second, "cpu", OWNER)
    assert attempt is not None
    refused = opd(folder, "delete", first, second, "--yes", code=2)
    assert refused == f"{second}: is running: stop it first (opd cancel {second})"
    assert "no such run" in opd(folder, "delete", first, "run-none", "--yes", code=2)
    assert read_runs(engine)["total"] == 2
    jobs.finish(engine, second, attempt, "finished")
    assert opd(folder, "delete", first, second, "--yes") == f"{first} deleted\n{second} deleted\n"
    assert read_runs(engine)["total"] == 0
    undone = json.loads(opd(folder, "delete", "--undo", first, "--json"))
    assert undone == {"items": [{"id": first}], "total": 1}
    assert [item["id"] for item in read_runs(engine)["items"]] == [first]


@pytest.mark.parametrize(("answer", "left"), [("n\n", 1), ("y\n", 0)])
def test_it_asks_before_it_deletes(
    folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    run_id = jobs.create_run(engine, parse({"name": "mine"}))
    monkeypatch.setattr(editing, "_at_a_terminal", lambda: True)
    done = CliRunner().invoke(app, ["delete", run_id, "--data-dir", str(folder)], input=answer)
    assert f"{run_id}  mine  queued" in done.output and "Delete this run?" in done.output
    assert read_runs(engine)["total"] == left


def test_a_log_is_printed_and_followed_to_the_end(
    folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = jobs.create_run(engine, parse({}))
    assert "has no log" in opd(folder, "log", run_id, code=2)
    assert "no such run" in opd(folder, "log", "run-none", code=2)
    path = DataDir(folder).run(run_id).log
    attempt = jobs.claim(engine, run_id, "cpu", OWNER)
    assert attempt is not None
    waits = []

    def wait(seconds: float) -> None:
        """What a job does while the command sleeps."""
        waits.append(seconds)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write([b"step 1/3\nstep", b" 2/3\n\x1b[31mred\n", b"the end"][len(waits) - 1])
        if len(waits) == 3:
            jobs.finish(engine, run_id, attempt, "finished")

    monkeypatch.setattr(inspect_runs, "sleep", wait)
    lines = "step 1/3\nstep 2/3\n�[31mred\nthe end\n"
    assert opd(folder, "log", run_id, "--follow") == lines
    assert len(waits) == 3
    assert opd(folder, "log", run_id) == opd(folder, "log", run_id, "--follow") == lines
