import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from app.version import program_version
from app.worker import job
from app.worker.launchers import on_node
from app.worker.launchers.database import DATABASE_VARIABLE
from app.worker.launchers.launcher import JOB_VARIABLE
from app.worker.launchers.on_node import ClusterJob, open_shared, slot_here
from opd.config.run import parse
from opd.errors import UserError
from storage import clock
from storage.queue import jobs, placing
from storage.read.runs import read_run
from tests.support.fake_training import ROOT, SCRIPT


@pytest.fixture
def shared(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory whose database has an address; SQLite serves for that on one machine."""
    monkeypatch.setenv(DATABASE_VARIABLE, f"sqlite:///{tmp_path}/studio.db")
    return tmp_path


def test_a_job_knows_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ClusterJob("slurm:?opd-run-a-1", 30.0)
    assert mine.names == ("slurm:opd-run-a-1", "slurm:?opd-run-a-1")
    monkeypatch.setenv(JOB_VARIABLE, "slurm:17")
    assert mine.name == "slurm:17" and mine.patience == 24.0


def test_a_folder_that_is_not_here_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the data directory is not on .*that all hosts share"):
        open_shared(tmp_path / "none", program_version())
    assert not (tmp_path / "none").exists()


def test_another_version_is_named_with_its_host(shared: Path) -> None:
    with pytest.raises(UserError, match=r"is .*, the server's is 9\.9: install one"):
        open_shared(shared, "9.9")


def test_a_database_of_another_schema_is_left_as_it_is(shared: Path, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("update alembic_version set version_num = '0014'"))
    with pytest.raises(UserError, match="is of another version of OPD Studio"):
        open_shared(shared, program_version())
    with engine.begin() as connection:
        version = connection.execute(text("select version_num from alembic_version")).scalar()
    assert version == "0014"


@pytest.mark.parametrize(("seconds", "side"), [(3600, "ahead of"), (-3600, "behind")])
def test_a_clock_that_is_off_is_named(
    shared: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, side: str
) -> None:
    true = time.time
    monkeypatch.setattr(clock.time, "time", lambda: true() + seconds)
    with pytest.raises(UserError, match=f"3,600 s {side} the database's") as refused:
        open_shared(shared, program_version())
    assert refused.value.where == "clock"


def test_the_devices_that_the_job_sees(
    shared: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_node, "gpu_count", lambda: 2)
    for device, count, nodes, slot in (
        ("cpu", 1, 1, "cpu"),
        ("cuda", 2, 1, "cuda:0,cuda:1"),
        ("cuda", 4, 2, "cuda:0,cuda:1"),
        ("auto", 1, 1, "cuda:0"),
    ):
        config = {"device": device, "devices": count, "resources": {"nodes": nodes}}
        assert slot_here(engine, jobs.create_run(engine, parse(config))) == slot


def start(shared: Path, run_id: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    options = ("--cluster-job", "slurm:?key", "--version", program_version(), "--grace", "30")
    command = [sys.executable, str(SCRIPT), "job", run_id, "--data-dir", str(shared), *options]
    env = os.environ | {JOB_VARIABLE: "slurm:17", "PYTHONPATH": str(ROOT)} | environment
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def submitted(engine: Engine) -> str:
    config = {"name": "fast", "steps": 2, "device": "cpu", "checkpoints": {"every": 2}}
    run_id = jobs.create_run(engine, parse(config))
    [row] = [row for row in placing.unplaced(engine, "slurm") if row.id == run_id]
    assert placing.reserve(engine, row, "slurm:?key")
    return run_id


def test_a_job_claims_its_run_in_its_own_name(shared: Path, engine: Engine) -> None:
    run_id = submitted(engine)
    done = start(shared, run_id)
    assert done.returncode == 0, done.stderr
    assert read_run(engine, run_id)["status"] == "finished"
    [row] = placing.placed(engine, "slurm")
    assert (row.job, row.claimed, row.slot) == ("slurm:17", True, "cpu")
    assert start(shared, run_id).returncode == job.EXIT_NOT_CLAIMED
