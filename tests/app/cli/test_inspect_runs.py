"""`opd runs` with columns of one's choice."""

import json
from pathlib import Path

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from app.cli.main import app
from opd.config.run import parse
from opd.errors import UserError
from storage.engine import open_database
from storage.queue import jobs
from tests.support.api_client import stored_run

RATE = "optimizer.learning_rate"


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(tmp_path)


def runs(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["runs", *arguments, "--data-dir", str(folder)])
    if isinstance(done.exception, UserError):
        return str(done.exception)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_columns_and_order(tmp_path: Path, engine: Engine) -> None:
    trained = stored_run(engine)
    for rate in (1e-5, 1e-3):
        config = {"name": f"at {rate}", "optimizer": {"learning_rate": rate, "warmup_steps": 3}}
        jobs.create_run(engine, parse(config))
    options = ("--columns", f"{RATE}, score,evaluation.temperatures", "--sort", RATE)
    table = runs(tmp_path, *options)
    assert table.index("at 1e-05") < table.index("at 0.001")
    assert " 1e-05" in table and "[1.0, 0.0]" in table and "0.5" in table
    found = json.loads(runs(tmp_path, *options, "--desc", "--json", "--limit", "1"))
    assert found["total"] == 3 and found["items"][0]["columns"][RATE] == 1e-3
    by_score = json.loads(runs(tmp_path, "--sort", "score", "--json"))["items"]
    assert by_score[0]["id"] == trained and "columns" not in by_score[0]


def test_an_unknown_column_is_refused(tmp_path: Path, engine: Engine) -> None:
    assert "did you mean" in runs(tmp_path, "--columns", "rewrd")
    assert runs(tmp_path, "--sort", "zzz").startswith("sort: no column 'zzz'")
