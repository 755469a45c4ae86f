"""The supervisor and its jobs on a PostgreSQL server that is restarted, stays away, comes back."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.support.postgresql import PostgresqlServer, throwaway
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_steps
from tests.support.databases import matrix
from tests.support.studio import Studio

pytestmark = pytest.mark.engines
STEPS = 40


@pytest.fixture
def server() -> Iterator[PostgresqlServer]:
    matrix.needed()
    with throwaway(durable=True) as started:
        started.sql("CREATE DATABASE studio")
        yield started


@pytest.fixture
def studio(server: PostgresqlServer, tmp_path: Path) -> Iterator[Studio]:
    made = Studio(tmp_path / "data", server.url("studio"))
    yield made
    made.close()


def test_a_server_that_restarts_costs_a_run_nothing(
    server: PostgresqlServer, studio: Studio
) -> None:
    run_id = studio.queue("slow", steps=STEPS)
    studio.supervisor()
    studio.wait_step(run_id, 3)
    pid = studio.pid(run_id)
    server.restart()
    studio.wait_step(run_id, 8)
    server.stop()
    time.sleep(3)
    server.start()
    studio.wait_step(run_id, 12)
    assert studio.pid(run_id) == pid, "the same process, in its first attempt"
    studio.wait_status(run_id, "finished")
    run = studio.run(run_id)
    assert (run["attempt"], run["step"]) == (1, STEPS)
    assert read_steps(studio.engine, run_id)["columns"]["step"] == list(range(1, STEPS + 1))
    assert read_rollouts(studio.engine, run_id, kind="train")["total"] == STEPS
    queued = studio.queue("fast")
    studio.wait_status(queued, "finished")


def test_a_job_that_dies_while_the_server_is_away_is_interrupted(
    server: PostgresqlServer, studio: Studio
) -> None:
    run_id = studio.queue("slow", steps=10_000)
    studio.supervisor()
    studio.wait_step(run_id, 3)
    pid = studio.pid(run_id)
    server.stop()
    os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    server.start()
    studio.wait_status(run_id, "interrupted")
    steps = read_steps(studio.engine, run_id)["columns"]["step"]
    assert steps == list(range(1, len(steps) + 1)), "none is lost or doubled"
