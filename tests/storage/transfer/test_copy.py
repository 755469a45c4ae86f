"""A studio in another database is the same to the byte, or is not there."""

import math
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine, insert, select, text, update

from bench.fill import fill
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from opd.types import StepEvent
from storage import schema
from storage.engine import begin, open_database, read
from storage.queue import jobs, requests, run_details
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_run, read_runs
from storage.transfer import copy as transfer
from storage.transfer.copy import copy_studio
from storage.transfer.rows import stored_rows
from tests.support import stored_runs
from tests.support.databases import matrix

NASTY = "a\0b\U0010ffff0\U0010ffff\U0010ffffé\\u0000 \u202e"


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Engine]:
    """Runs with every kind of row and with values that a database may mistake."""
    engine = open_database(tmp_path / "source")
    fill(engine, 1, 2_000, (100,))
    parent, child = (jobs.create_run(engine, parse({"name": f"n{i}"})) for i in range(2))
    run_id, writer = _run(engine)
    rollout = stored_runs.rollout(1, completion=NASTY, prompt=NASTY, data_row={NASTY: [NASTY]})
    writer.step(StepEvent(1, {}, 2**62, 1e308, {"loss": 5e-324}, [rollout]), stored_runs.texts)
    jobs.finish(engine, run_id, 1, "finished")
    requests.enqueue(engine, "chat", {"text": NASTY, "float": 0.1 + 0.2})
    spelled = '{"a" : 1.0e+16, "b":"\\u0000","c":"\\\\u0000" }'  # not as orjson would
    with begin(engine) as connection:
        connection.execute(update(schema.run).where(schema.run.c.id == parent).values(parent=child))
        connection.execute(text("UPDATE run SET scales = :json"), {"json": spelled})
        connection.execute(
            update(schema.run).where(schema.run.c.id == run_id).values(flops=math.inf, kl=-0.0)
        )
        word = {"fingerprint": "f", "id": 2**62, "bytes": bytes(range(256)), "special": True}
        connection.execute(insert(schema.vocabulary).values(word))
    yield engine
    engine.dispose()


def _run(engine: Engine) -> tuple[str, stored_runs.RunWriter]:
    run_id, writer = stored_runs.started(engine)
    run_details.edit(engine, run_id, run_details.RunEdit(notes=NASTY))
    return run_id, writer


def rows(engine: Engine) -> dict[str, list[str]]:
    with read(engine) as connection:
        return {
            table.name: sorted(map(repr, stored_rows(connection, table)))
            for table in schema.metadata.sorted_tables
        }


def test_every_byte_is_there_and_back(source: Engine, tmp_path: Path) -> None:
    """Where there is a PostgreSQL server, by way of it."""
    there = matrix.new_database(tmp_path / "there")
    before = rows(source)
    copied = copy_studio(source, there)
    assert {t.name: t.rows for t in copied} == {name: len(of) for name, of in before.items()}
    assert rows(there) == before
    back = open_database(tmp_path / "back")
    assert copy_studio(there, back) == copied
    assert rows(back) == before
    assert read_runs(there)["items"] == read_runs(source)["items"]
    for run in read_runs(source)["items"]:
        assert read_run(there, run["id"]) == read_run(source, run["id"])
        for item in read_rollouts(source, run["id"])["items"]:
            assert read_rollout(there, item["id"]) == read_rollout(source, item["id"])
    for engine in (there, back):
        engine.dispose()


def test_a_database_that_holds_something_is_refused(source: Engine, tmp_path: Path) -> None:
    target = matrix.new_database(tmp_path / "there")
    jobs.create_run(target, parse({}))
    before = rows(target)
    with pytest.raises(UserError, match="holds 1 rows of run already"):
        copy_studio(source, target)
    assert rows(target) == before
    target.dispose()


def test_a_studio_with_a_running_run_is_refused(source: Engine, tmp_path: Path) -> None:
    run_id, _ = stored_runs.started(source)
    target = matrix.new_database(tmp_path / "there")
    with pytest.raises(UserError, match=rf"1 runs are running \({run_id}\)") as refused:
        copy_studio(source, target)
    assert refused.value.kind is ErrorKind.RUNNING
    assert read_runs(target)["total"] == 0
    target.dispose()


@pytest.mark.parametrize("at", ["run", "token_record"])
def test_a_copy_that_breaks_off_leaves_nothing(
    source: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    target = matrix.new_database(tmp_path / "there")
    store = transfer.store_rows

    def breaking(connection, table, batch):
        store(connection, table, batch)
        if table.name == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "store_rows", breaking)
    with pytest.raises(KeyboardInterrupt):
        copy_studio(source, target)
    assert not any(rows(target).values())
    monkeypatch.undo()
    copy_studio(source, target)
    assert rows(target) == rows(source)
    target.dispose()


def test_a_row_that_did_not_arrive_as_it_was_is_noticed(
    source: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = matrix.new_database(tmp_path / "there")
    store = transfer.store_rows

    def flipping(connection, table, batch):
        if table.name == "vocabulary":
            batch = [
                (*row[:2], row[2] + b"!", *row[3:]) if n == 7 else row
                for n, row in enumerate(batch)
            ]
        store(connection, table, batch)

    monkeypatch.setattr(transfer, "store_rows", flipping)
    with pytest.raises(UserError, match="rows of vocabulary are not what they were: nothing was"):
        copy_studio(source, target)
    assert not any(rows(target).values())
    target.dispose()


def test_json_is_copied_as_it_is_spelled(source: Engine, tmp_path: Path) -> None:
    target = open_database(tmp_path / "target")
    copy_studio(source, target)
    with read(target) as connection:
        spelled = connection.scalars(text("SELECT scales FROM run")).all()
        scales = connection.scalars(select(schema.run.c.scales)).all()
    assert set(spelled) == {'{"a" : 1.0e+16, "b":"\\u0000","c":"\\\\u0000" }'}
    assert scales[0] == orjson.loads(spelled[0])
    target.dispose()
