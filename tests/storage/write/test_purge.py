"""Deleting for good: what goes, what stays, what others meet meanwhile, and the room."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, select, update

from opd.config.run import parse
from opd.errors import UserError
from opd.experiments.plan import Key
from storage import schema
from storage.engine import begin, read, reclaim, size
from storage.marks.edit import add_mark
from storage.queue import experiments, jobs
from storage.queue.run_details import delete_run, restore_run
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run, read_runs
from storage.read.tokens import read_tokens
from storage.transfer.rows import stored_rows
from storage.vocabulary import forget_texts, stored_texts
from storage.write import purge
from storage.write.imports import import_rollouts
from tests.support import stored_runs
from tests.support.stored_experiments import definition

DAY = 86_400


def stored(engine: Engine, slot: str, steps: int = 3, rollouts: int = 4) -> str:
    """A finished run with steps, an evaluation and a mark."""
    run_id, writer = stored_runs.started(engine, slot)
    for step in range(1, steps + 1):
        writer.step(stored_runs.step_event(step, rollouts), stored_runs.texts)
    writer.evaluation(stored_runs.evaluation_event(steps, 0.5), stored_runs.texts)
    jobs.finish(engine, run_id, 1, "finished")
    add_mark(engine, read_rollouts(engine, run_id)["items"][0]["id"], 0, "look")
    return run_id


def imported(engine: Engine) -> str:
    run_id = jobs.create_run(engine, parse({}), source="import")
    import_rollouts(
        engine, run_id, [stored_runs.rollout(1, n) for n in range(2)], stored_runs.texts
    )
    return run_id


def purged(engine: Engine, *runs: str) -> None:
    for run_id in runs:
        delete_run(engine, run_id)
        purge.purge_records(engine, run_id)
        purge.purge_run(engine, run_id)


def rows(engine: Engine) -> dict[str, list[str]]:
    with read(engine) as connection:
        return {
            table.name: sorted(map(repr, stored_rows(connection, table)))
            for table in schema.metadata.sorted_tables
        }


def test_all_of_a_run_goes_and_nothing_of_another(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "ROWS", 3)  # of more rollouts than that
    kept = stored(engine, "a")
    before = rows(engine)
    gone = stored(engine, "b")
    child = jobs.create_run(engine, parse({}), parent=gone)
    foreign = imported(engine)
    purged(engine, gone, foreign)
    assert read_run(engine, child)["parent"] is None
    with begin(engine) as connection:
        connection.execute(schema.run.delete().where(schema.run.c.id == child))
    assert rows(engine) == before
    item = read_rollouts(engine, kept)["items"][0]
    assert len(read_tokens(engine, item["id"]).columns["completion_ids"]) == 20
    purged(engine, kept)
    assert not any(rows(engine).values()), "token texts go with the last run that needs them"


def test_a_large_record_goes_in_a_transaction_of_its_own(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "BYTES", 1)
    run_id = stored(engine, "a", steps=1)
    kept = read_rollouts(engine, run_id)["total"]
    pauses: list[float] = []
    monkeypatch.setattr(purge.time, "sleep", pauses.append)
    purged(engine, run_id)
    assert len(pauses) > kept and all(pause > 0 for pause in pauses)


def test_only_what_is_deleted_can_be_purged(engine: Engine) -> None:
    run_id = stored(engine, "a")
    with pytest.raises(UserError, match="is not deleted: opd delete it first"):
        purge.deleted_runs(engine, [run_id])
    with pytest.raises(UserError, match="no such run"):
        purge.purge_records(engine, run_id)
    with pytest.raises(UserError, match="no such run"):
        purge.deleted_runs(engine, ["run-none"])
    assert purge.deleted_runs(engine) == []
    delete_run(engine, run_id)
    [deleted] = purge.deleted_runs(engine)
    assert (deleted.id, deleted.bytes) == (run_id, purge.deleted_runs(engine, [run_id])[0].bytes)
    assert purge.deleted_runs(engine, days=1) == []
    with begin(engine) as connection:
        connection.execute(update(schema.run).values(deleted_at=time.time() - 2 * DAY))
    assert [run.id for run in purge.deleted_runs(engine, days=1)] == [run_id]


def test_a_killed_purge_is_finished_by_the_next_and_cannot_be_undone(engine: Engine) -> None:
    run_id = stored(engine, "a")
    delete_run(engine, run_id)
    purge.purge_records(engine, run_id)
    with pytest.raises(UserError, match="no such run"):
        restore_run(engine, run_id)
    assert [run.id for run in purge.deleted_runs(engine)] == [run_id]
    purge.purge_records(engine, run_id)
    purge.purge_run(engine, run_id)
    purge.purge_run(engine, run_id)
    assert purge.deleted_runs(engine) == []


def test_a_running_experiment_keeps_its_runs(engine: Engine) -> None:
    name = experiments.create_experiment(engine, definition(), quick=False)
    run_id = experiments.add_run(engine, name, Key("final", "rl", 0, 0), parse({}))
    assert run_id is not None
    delete_run(engine, run_id)
    assert purge.deleted_runs(engine) == []
    with pytest.raises(UserError, match=f"belongs to {name}, which is running"):
        purge.deleted_runs(engine, [run_id])
    experiments.end_experiment(engine, name, "cancelled")
    assert [run.id for run in purge.deleted_runs(engine)] == [run_id]


def test_an_import_that_died_is_found_after_a_day(engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}), source="import")
    assert purge.deleted_runs(engine) == []
    with begin(engine) as connection:
        connection.execute(update(schema.run).values(created_at=time.time() - 2 * DAY))
    assert [run.id for run in purge.deleted_runs(engine)] == [run_id]
    purge.purge_records(engine, run_id)
    purge.purge_run(engine, run_id)
    assert not any(rows(engine).values())


def test_a_run_that_begins_meanwhile_has_its_token_texts(engine: Engine) -> None:
    """Whoever is about to forget texts has looked before the other run has said what it needs."""
    purged_last = stored(engine, "a")
    run_id, writer = stored_runs.started(engine, "b")
    with begin(engine) as connection:  # as if it had not begun
        connection.execute(update(schema.run).values(tokenizer=""))
    begun = threading.Thread(target=_begin_again, args=(writer,))
    with begin(engine) as connection:
        connection.execute(schema.run.delete().where(schema.run.c.id == purged_last))
        forget_texts(connection, "words")
        begun.start()
        begun.join(0.5)
        assert begun.is_alive(), "it waits"
    begun.join()
    with read(engine) as connection:
        ids = connection.scalars(
            select(schema.vocabulary.c.id).where(schema.vocabulary.c.fingerprint == "words")
        ).all()
        assert len(stored_texts(connection, "words", ids)) == len(ids) > 20
    assert read_run(engine, run_id)["step"] == 1


def _begin_again(writer: Any) -> None:
    writer.models(
        stored_runs.ModelsEvent({"student": "/s", "teacher": "/t"}, "words", "cpu"), {"torch": "2"}
    )
    writer.step(stored_runs.step_event(1), stored_runs.texts)


def test_others_write_and_read_while_runs_are_purged_and_room_is_reclaimed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "ROWS", 2)
    deleted = [stored(engine, f"slot {n}", steps=8) for n in range(2)]
    run_id, writer = stored_runs.started(engine, "writing")
    over = threading.Event()

    def write() -> tuple[int, float]:
        step, slowest = 0, 0.0
        while not over.is_set():
            step += 1
            slowest = max(slowest, writer.step(stored_runs.step_event(step), stored_runs.texts))
            assert read_runs(engine)["items"]
        return step, slowest

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        purged(engine, *deleted)
        for shrink in (False, True):
            reclaim(engine, shrink=shrink)
        over.set()
        steps, slowest = writing.result()
    assert read_run(engine, run_id)["step"] == steps > 3
    assert slowest < 10
    assert {run["id"] for run in read_runs(engine)["items"]} == {run_id}


@pytest.mark.parametrize("way", ["used again", "given back"])
def test_room_of_purged_runs(engine: Engine, way: str) -> None:
    keep = stored(engine, "kept")
    empty = size(engine)
    gone = stored(engine, "a", steps=15, rollouts=50)
    full = _size_at_rest(engine)
    assert full > empty + 2**20
    purged(engine, gone)
    reclaim(engine, shrink=way == "given back")
    if way == "given back":
        assert _size_at_rest(engine) < empty + (full - empty) / 4
    else:
        stored(engine, "again", steps=15, rollouts=50)
        assert _size_at_rest(engine) < full + (full - empty) / 4
    assert read_run(engine, keep)["step"] == 3


def _size_at_rest(engine: Engine) -> int:
    """With what SQLite's log still holds."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.commit()
        raw = engine.raw_connection()
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.close()
    return size(engine)
