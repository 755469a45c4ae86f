"""`opd purge`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from opd.config.run import parse
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.queue.run_details import delete_run, restore_run
from storage.read.runs import read_runs
from tests.support import stored_runs
from tests.support.databases.matrix import new_database

Opd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return new_database(tmp_path / "data")


def deleted(engine: Engine, folder: Path, name: str = "old") -> str:
    run_id, writer = stored_runs.started(engine, name, name=name)
    writer.step(stored_runs.step_event(1), stored_runs.texts)
    jobs.finish(engine, run_id, 1, "finished")
    checkpoint = DataDir(folder).run(run_id).checkpoints / "step-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model").write_text("weights")
    delete_run(engine, run_id)
    return run_id


def test_records_and_files_of_deleted_runs_go(opd: Opd, engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    first, second, third = (deleted(engine, folder, name) for name in "abc")
    restore_run(engine, second)
    assert "a: no such run" in opd("purge", "a", "--yes")[2]
    assert f"{second}: is not deleted" in opd("purge", second, "--yes")[2]
    code, out, _ = opd("purge", first, "--yes")
    assert (code, out) == (0, f"{first} purged\n")
    assert not DataDir(folder).run(first).path.exists()
    assert DataDir(folder).run(third).path.exists()
    assert opd("purge", "--days", "1", "--yes", "--json")[1] == '{"items":[],"total":0}\n'
    answer = json.loads(opd("purge", "--yes", "--json")[1])
    assert [item["id"] for item in answer["items"]] == [third] and answer["items"][0]["bytes"] > 0
    assert [path.name for path in DataDir(folder).runs.iterdir()] == [second]
    assert "No deleted runs to remove." in opd("purge", "--yes")[2]
    assert "no such run" in opd("delete", "--undo", first)[2]
    assert [run["id"] for run in read_runs(engine)["items"]] == [second]


def test_it_asks(opd: Opd, engine: Engine, tmp_path: Path) -> None:
    run_id = deleted(engine, tmp_path / "data")
    code, _, err = opd("purge")
    assert code == 2 and "opd purge: nobody is there to confirm: give --yes" in err
    code, _, err = opd("purge", run_id, "--days", "3", "--yes")
    assert code == 2 and "--days: chooses among all deleted runs" in err
    restore_run(engine, run_id)


def test_room_is_given_back_while_nothing_runs(opd: Opd, engine: Engine, tmp_path: Path) -> None:
    deleted(engine, tmp_path / "data")
    running = jobs.create_run(engine, parse({}))
    attempt = jobs.claim(engine, running, "cpu", stored_runs.OWNER)
    assert attempt is not None
    code, _, err = opd("purge", "--yes", "--shrink")
    assert code == 2 and f"--shrink: 1 runs are running ({running}" in err
    jobs.finish(engine, running, attempt, "finished")
    code, _, err = opd("purge", "--yes", "--shrink")
    assert code == 0 and "The database took " in err
    assert opd("purge", "--shrink")[0] == 0, "also without any run to remove"
