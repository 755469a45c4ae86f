"""A job that does not listen is ended, and what it has told is kept."""

import time
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine

from app.worker import process
from app.worker.cancellation import KILL_AFTER, Pressure
from app.worker.recovery import running
from app.worker.run_files.choice import run_files
from opd.config.run import parse
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.runs import read_run


def test_what_a_job_that_had_to_be_killed_wrote_last_is_sent(
    engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "team").mkdir()
    data_dir = DataDir(tmp_path / "a", files=f"file://{tmp_path}/team")
    run_id = jobs.create_run(engine, parse({"device": "cpu"}))
    log = data_dir.run(run_id).log
    log.parent.mkdir(parents=True)
    with run_files(data_dir).mirrored(run_id, 1):  # as the job does while it lives
        log.write_text("begun\n")
    child = process.start_detached(["sh", "-c", "echo last words; sleep 600"], log=log)
    while "last words" not in log.read_text():
        time.sleep(0.02)
    child_owner = process.owner_of(child.pid)
    assert child_owner is not None
    owner = replace(
        process.this_process(data_dir), pid=child_owner.pid, started=child_owner.started
    )
    assert jobs.claim(engine, run_id, "cpu", owner) == 1
    jobs.request_cancel(engine, run_id, "save")
    [run] = running(engine)
    Pressure(engine, data_dir).press(replace(run, cancel_age=KILL_AFTER + 1))
    assert child.wait() == -9
    with run_files(data_dir).mirrored(run_id, 99):  # which waits for what is done later
        pass
    assert read_run(engine, run_id)["status"] == "cancelled"
    other = DataDir(tmp_path / "b", files=data_dir.files)
    sent = run_files(other).log(run_id)
    assert sent is not None and sent.read(0, 100) == b"begun\nlast words\n"
