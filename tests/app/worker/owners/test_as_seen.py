"""What has died is not called running, and nothing is written to say so."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from app.worker.owners.as_seen import as_seen, with_status
from app.worker.process import this_process
from opd.config.run import parse
from storage import schema
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs
from storage.read.runs import read_run, read_runs
from tests.support.databases.matrix import new_database

Change = Callable[..., None]


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return new_database(tmp_path)


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


def running(engine: Engine, owner: jobs.Owner, slot: str = "cpu") -> str:
    run_id = jobs.create_run(engine, parse({}))
    assert jobs.claim(engine, run_id, slot, owner) == 1
    return run_id


def seen(engine: Engine, data_dir: DataDir, run_id: str) -> dict[str, Any]:
    before = data_dir.database.read_bytes()
    [run] = as_seen(engine, data_dir, [read_run(engine, run_id)])
    assert data_dir.database.read_bytes() == before
    return run


def test_a_run_whose_process_is_gone(engine: Engine, data_dir: DataDir) -> None:
    me = this_process(data_dir)
    living = running(engine, me)
    assert seen(engine, data_dir, living)["status"] == "running"
    dead = running(engine, dataclasses.replace(me, started=me.started - 9), "cuda:0")
    run = seen(engine, data_dir, dead)
    assert (run["status"], run["phase"], run["error_kind"]) == ("interrupted", "", "killed")
    assert run["error_text"] == "the job's process is gone" and run["hint"]

    def stored(status: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = read_runs(engine, status=status)["items"]
        return items

    def ids(status: str) -> list[str]:
        listed = with_status(engine, data_dir, stored, status, stored(status))
        return [run["id"] for run in listed]

    assert (ids("running"), ids("interrupted")) == ([living], [dead])
    with begin(engine) as connection:
        connection.execute(update(schema.run).values(cancel_mode="save"))
    assert seen(engine, data_dir, dead)["status"] == "cancelled"
    assert read_run(engine, dead)["status"] == "running", "as stored"


def test_a_run_of_another_host_by_its_heartbeat(engine: Engine, data_dir: DataDir) -> None:
    other = dataclasses.replace(this_process(data_dir), place="gpu-box 1 2")
    run_id = running(engine, other)
    assert seen(engine, data_dir, run_id)["status"] == "running"
    with begin(engine) as connection:
        older = schema.run.c.heartbeat_at - 3600
        connection.execute(update(schema.run).values(heartbeat_at=older))
    run = seen(engine, data_dir, run_id)
    assert (run["status"], run["error_kind"]) == ("interrupted", "lost")
    assert f"no heartbeat from process {other.pid} on gpu-box for 36" in run["error_text"]


def test_a_run_that_a_command_waited_with(engine: Engine, data_dir: DataDir) -> None:
    me = this_process(data_dir)
    gone = dataclasses.replace(me, started=me.started - 9)
    waits, abandoned = (jobs.create_run(engine, parse({}), waiter=owner) for owner in (me, gone))
    plain = jobs.create_run(engine, parse({}))
    statuses = [seen(engine, data_dir, run_id)["status"] for run_id in (waits, abandoned, plain)]
    assert statuses == ["queued", "cancelled", "queued"]
