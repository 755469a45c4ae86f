"""`opd runs` with columns of one's choice."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from opd.config.run import parse
from storage.queue import jobs
from tests.support.api_client import stored_run
from tests.support.databases.matrix import new_database

RATE = "optimizer.learning_rate"
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return new_database(tmp_path / "data")


def test_columns_and_order(opd: Command, engine: Engine) -> None:
    trained = stored_run(engine)
    for rate in (1e-5, 1e-3):
        config = {"name": f"at {rate}", "optimizer": {"learning_rate": rate, "warmup_steps": 3}}
        jobs.create_run(engine, parse(config))
    options = ("runs", "--columns", f"{RATE}, score,evaluation.temperatures", "--sort", RATE)
    code, table, _ = opd(*options)
    assert code == 0 and table.index("at 1e-05") < table.index("at 0.001")
    assert " 1e-05" in table and "[1.0, 0.0]" in table and "0.5" in table
    page = json.loads(opd(*options, "--desc", "--json", "--limit", "1")[1])
    assert page["total"] == 3 and page["items"][0]["columns"][RATE] == 1e-3
    by_score = json.loads(opd("runs", "--sort", "score", "--json")[1])["items"]
    assert by_score[0]["id"] == trained and "columns" not in by_score[0]


@pytest.mark.usefixtures("engine")
def test_an_unknown_column_is_refused(opd: Command) -> None:
    code, _, err = opd("runs", "--columns", "rewrd")
    assert code == 2 and "did you mean" in err
    assert "sort: no column 'zzz'" in opd("runs", "--sort", "zzz")[2]
