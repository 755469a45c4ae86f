import dataclasses
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
from sqlalchemy import update

from app.cli import commands as cli
from app.worker.process import this_process
from opd.config.run import parse
from opd.interchange.spreadsheet import ROLLOUT_COLUMNS
from storage import schema
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs
from tests.opd.interchange.test_jsonl import LINE, written
from tests.support.fake_training import ROOT
from tests.support.studio import Studio

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(tmp_path / "data")
    yield made
    made.close()


def imported(opd: Run, tmp_path: Path, *lines: Any) -> str:
    path = written(tmp_path / "in.jsonl", *(lines or (LINE,)))
    code, out, _ = opd("import", str(path), "--name", "from elsewhere")
    assert code == 0
    return out.split()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blah"], "No such command 'blah'."),
        (["train"], "Missing argument 'RECIPE_OR_FILE'."),
        (["train", "--foo"], "No such option: --foo"),
        (["train", "nope"], "nope: no recipe or file of this name; recipes: demo, "),
        (
            ["train", "demo", "--set", "steps=0"],
            "steps: Input should be greater than or equal to 1 (got 0)",
        ),
        (["train", "demo", "--set", "step=2"], "step: unknown field; did you mean steps?"),
        (["train", "demo", "--set", "steps"], "--set steps: must look like field=value"),
        (["train", "demo", "--set", "optimizer.learning_rate=nan"], "optimizer.learning_rate: "),
        (["runs", "--limit", "x"], "Input should be a valid integer"),
        (["runs", "--limit=0"], "(got '0')"),
        (["show", "run-x"], "run-x: no such run"),
        (["cancel", "run-x"], "run-x: no such run"),
        (["resume", "run-x"], "run-x: no such run"),
        (
            ["export", "run-x", "--out", "a.txt"],
            "must end in .jsonl or .parquet or .csv (got .txt)",
        ),
        (["export", "run-x", "--table", "--out", "a.jsonl"], "a table is CSV or Parquet"),
        (["export", "run-x", "--out", "a.jsonl"], "run-x: no such run"),
        (["save", "run-x", "--out", "a"], "run-x: no such run"),
        (["import", "nothing.jsonl", "--name", "x"], "nothing.jsonl: no such file"),
        (["serve", "--port", "99999"], "(got '99999')"),
        (
            ["serve", "--host", "no.such.host.invalid"],
            "--host no.such.host.invalid: is not",
        ),
        (["serve", "--port", "0", "--token", "a b"], "--token: must be printable ASCII"),
        (
            ["runs", "--data-dir", "/proc/nothing/x"],
            "--data-dir /proc/nothing/x: cannot be created",
        ),
        (["runs", "--database-url", "nonsense://x"], "Error: "),
        (
            ["score", "--student", "a", "--teacher", "b", "--rollouts", "no", "--out", "o"],
            "no: cannot be read: No such file",
        ),
        (
            ["score", "--student=a", "--teacher=b", "--rollouts=n", "--out=o", "--temperature=0"],
            "--temperature: must be above 0 and at most 10 (got 0.0)",
        ),
    ],
)
def test_bad_input_is_one_clear_line(opd: Run, arguments: list[str], message: str) -> None:
    code, out, err = opd(*arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert err.startswith("Error: ") and err.count("\n") == 1


def test_no_argument_shows_the_commands(opd: Run) -> None:
    code, out, _ = opd()
    assert code == 0
    assert all(command in out for command in ("demo", "serve", "train", "resume", "cancel"))


def test_every_command_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(cli.commands).commands  # type: ignore[attr-defined]
    assert len(commands) >= 12
    for name, command in commands.items():
        assert re.search(rf"`opd {name}\b", page), name
        for parameter in command.params:
            for option in parameter.opts:
                if option.startswith("--") and option != "--help":
                    assert f"`{option}" in page, f"{name} {option}"
                    assert re.search(r"\w", parameter.help or ""), f"{name} {option}"


def test_lists_are_one_line_of_json(opd: Run, studio: Studio) -> None:
    ids = [jobs.create_run(studio.engine, parse({"name": f"n{i}"})) for i in range(3)]
    with begin(studio.engine) as connection:  # as an older version stored them
        connection.execute(update(schema.run).values(name=schema.run.c.name + "\x1b[31m"))
    code, out, _ = opd("runs", "--json")
    answer = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert answer["total"] == 3
    assert {r["id"] for r in answer["items"]} == set(ids)
    assert {r["status"] for r in answer["items"]} == {"queued"}
    assert len(json.loads(opd("runs", "--json", "--limit", "2")[1])["items"]) == 2
    assert json.loads(opd("runs", "--json", "--status", "failed")[1]) == {"items": [], "total": 0}
    recipes = json.loads(opd("recipes", "--json")[1])
    assert "demo" in {r["name"] for r in recipes["items"]}
    assert recipes["total"] == len(recipes["items"])
    assert "demo" in opd("recipes")[1]
    table = opd("runs")[1]
    assert ids[0] in table and "\x1b[31m" not in table


def test_a_run_whose_process_is_gone_is_not_called_running(
    opd: Run, studio: Studio, tmp_path: Path
) -> None:
    me = this_process(DataDir(studio.data_dir))
    run_id = studio.queue()
    dead = dataclasses.replace(me, started=me.started - 9)
    assert jobs.claim(studio.engine, run_id, "cpu", dead) == 1
    [run] = json.loads(opd("runs", "--json")[1])["items"]
    assert (run["status"], run["error_kind"]) == ("interrupted", "killed")
    assert json.loads(opd("runs", "--json", "--status", "running")[1]) == {"items": [], "total": 0}
    assert json.loads(opd("runs", "--json", "--status", "interrupted")[1])["total"] == 1
    assert json.loads(opd("show", run_id, "--json")[1])["status"] == "interrupted"
    assert opd("report", run_id, "--out", str(tmp_path / "r.html"))[0] == 0
    assert opd("log", run_id, "--follow")[0] == 2  # has none, and none is awaited
    assert opd("delete", run_id, "--yes")[0] == 0


def test_import_show_export(opd: Run, tmp_path: Path) -> None:
    run_id = imported(opd, tmp_path, LINE, {**LINE, "sample": 2})
    shown = json.loads(opd("show", run_id, "--json")[1])
    assert shown["name"] == "from elsewhere"
    assert shown["status"] == "finished"
    assert {"config", "resolved", "checkpoints"} <= set(shown)
    assert run_id in opd("show", run_id)[1]
    out = tmp_path / "out.jsonl"
    assert opd("export", run_id, "--out", str(out))[0] == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    kept = {k: v for k, v in rows[0].items() if k in LINE and k != "run_id"}
    assert kept == {k: v for k, v in LINE.items() if k != "run_id"}
    assert [r["sample"] for r in rows] == [1, 2]
    assert opd("export", run_id, "--out", str(tmp_path / "out.parquet"))[0] == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 2
    table = tmp_path / "table.parquet"
    assert opd("export", run_id, "--table", "--out", str(table))[0] == 0
    assert pq.read_table(table).column_names == list(ROLLOUT_COLUMNS)
    assert opd("export", run_id, "--out", str(tmp_path / "out.csv"))[1].startswith("2 rollouts")
    assert (tmp_path / "out.csv").read_text().count(run_id) == 2
    assert not list(tmp_path.glob(".*partial"))
    again = opd("import", str(out), "--name", "again")
    assert again[0] == 0


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("no/x.jsonl", "cannot be written (No such file or directory)"),
        ("no/x.parquet", "cannot be written (No such file or directory)"),
        ("folder.jsonl", "is a folder; name a file in it"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(
    opd: Run, tmp_path: Path, out: str, message: str
) -> None:
    run_id = imported(opd, tmp_path)
    (tmp_path / "folder.jsonl").mkdir()
    before = sorted(tmp_path.iterdir())
    path = tmp_path / out
    code, _, err = opd("export", run_id, "--out", str(path))
    assert code == 2 and err.count("\n") == 1
    assert f"Error: --out {path}: {message}" in err
    assert sorted(tmp_path.iterdir()) == before


def test_score_names_a_bad_place_before_it_loads_models(opd: Run, tmp_path: Path) -> None:
    given = written(tmp_path / "in.jsonl", LINE)
    path = tmp_path / "no" / "x.jsonl"
    models = ("--student", "/nothing", "--teacher", "/nothing")
    code, _, err = opd("score", *models, "--rollouts", str(given), "--out", str(path))
    assert (code, err.count("\n")) == (2, 1)
    assert f"--out {path}: cannot be written" in err


def test_an_import_is_whole_or_not_there(opd: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "bad.jsonl", *[LINE] * 200, {**LINE, "reverse_kl": [1]})
    code, _, err = opd("import", str(path), "--name", "bad")
    assert code == 2
    assert "bad.jsonl, line 201, reverse_kl: has 1 entries" in err
    assert json.loads(opd("runs", "--json")[1])["total"] == 0


def test_a_database_of_a_newer_version_is_left_alone(opd: Run, tmp_path: Path) -> None:
    opd("runs", "--json")
    path = tmp_path / "data" / "studio.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    code, _, err = opd("runs")
    assert code == 2
    assert "studio.db" in err and "9999" in err


def test_a_damaged_database_is_one_line(opd: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "studio.db").write_bytes(b"not a database at all" * 400)
    code, _, err = opd("runs")
    assert code == 2 and err.count("\n") == 1


def test_save_needs_a_checkpoint(opd: Run, tmp_path: Path) -> None:
    run_id = imported(opd, tmp_path)
    code, _, err = opd("save", run_id, "--out", str(tmp_path / "out"))
    assert (code, err) == (2, f"Error: {run_id}: has no checkpoint to save\n")


def test_a_port_in_use_is_said_before_anything_starts(opd: Run, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for command in ("serve", "demo"):
            code, out, err = opd(command, "--port", str(port))
            assert code == 2 and out == ""
            assert f"port {port} is in use on 127.0.0.1" in err
            assert "choose another with --port" in err
    assert not (tmp_path / "data").exists()


def test_the_command_starts_fast_and_light() -> None:
    script = (
        "import sys, app.cli.commands as m;"
        "assert not {'torch', 'gradio', 'sqlalchemy', 'pydantic'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


def test_environment_names_the_data_directory(studio: Studio) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "runs", "--json"],
        env=os.environ | {"OPD_DATA_DIR": str(studio.data_dir)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"items": [], "total": 0}
    assert done.stderr == ""
