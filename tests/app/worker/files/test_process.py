"""The process that makes files: cancelled, killed, out of room, it leaves nothing half-made."""

import sys
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from app.worker.files import kept, process
from app.worker.files.process import FileWork
from app.worker.models.supervision import FileProcessSupervisor
from opd.errors import ErrorKind
from storage import schema
from storage.data_dir import DataDir
from storage.queue import requests
from tests.support.api_client import stored_run

PAYLOAD = {"format": "jsonl", "table": False}


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


def left(data_dir: DataDir) -> list[str]:
    return sorted(path.name for path in data_dir.downloads.iterdir())


def test_progress_is_told_and_a_request_that_is_cancelled_leaves_nothing(
    engine: Engine, data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = requests.enqueue(engine, "export", {"runs": [stored_run(engine)]} | PAYLOAD)
    seen = []

    def cancel(work: FileWork, path: Path) -> dict[str, int]:
        seen.append(requests.read_request(engine, name))
        made = process.export(work, path)
        seen.append(requests.read_request(engine, name))
        assert path.stat().st_size > 0
        requests.fail(engine, name, "cancelled by the client", kind=ErrorKind.CANCELLED)
        return made

    monkeypatch.setattr("app.worker.models.request.REPORT_EVERY", 0)
    process.serve(engine, data_dir, 0.1, {"export": cancel})
    assert [one["phase"] for one in seen] == ["starting", "writing rollouts"]
    assert seen[1]["answer"] == {"progress": {"done": 5, "total": 6}}
    assert left(data_dir) == []
    assert requests.read_request(engine, name)["error_kind"] == "cancelled"


def test_one_that_is_cancelled_while_it_is_written_stops(
    engine: Engine, data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = requests.enqueue(engine, "export", {"runs": [stored_run(engine)]} | PAYLOAD)
    monkeypatch.setattr("app.worker.models.request.REPORT_EVERY", 0)
    rows = []

    def slow(work: FileWork, path: Path) -> dict[str, int]:
        before = work.advance

        def advance(done: int) -> None:
            rows.append(done)
            if done == 2:
                requests.fail(engine, name, "no", kind=ErrorKind.CANCELLED)
            before(done)

        work.advance = advance  # type: ignore[method-assign]
        return process.export(work, path)

    process.serve(engine, data_dir, 0.1, {"export": slow})
    assert rows == [0, 1, 2] and left(data_dir) == []


def test_a_disk_that_fills_up_is_told(
    engine: Engine, data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = requests.enqueue(engine, "export", {"runs": [stored_run(engine)]} | PAYLOAD)
    monkeypatch.setattr(process, "free_bytes", lambda _: kept.RESERVE - 1)
    process.serve(engine, data_dir, 0.1)
    failed = requests.read_request(engine, name)
    assert (failed["state"], failed["error_kind"]) == ("failed", "disk full")
    assert "left on the disk" in failed["error_text"] and left(data_dir) == []


def test_a_killed_process_leaves_its_request_failed_and_the_next_sweeps(
    engine: Engine, data_dir: DataDir
) -> None:
    body = (
        "import sys, time\nfrom app.worker.files import process\n"
        "def slow(work, path):\n    path.write_text('half'); time.sleep(600)\n"
        "process.main(['--data-dir', sys.argv[2]], {'export': slow})"
    )
    supervisor = FileProcessSupervisor(engine, data_dir, (sys.executable, "-c", body))
    models = requests.enqueue(engine, "doctor", {})
    run_id = stored_run(engine)
    name = requests.enqueue(engine, "export", {"runs": [run_id]} | PAYLOAD)

    def turn_until(condition: str) -> None:
        end = time.monotonic() + 60
        while requests.read_request(engine, name)["state"] != condition:
            assert time.monotonic() < end
            supervisor.turn()
            time.sleep(0.02)

    turn_until("running")
    end = time.monotonic() + 20
    while not left(data_dir) and time.monotonic() < end:
        time.sleep(0.02)
    assert left(data_dir) == [f".{name}.partial"]
    with engine.connect() as connection:
        query = schema.question.select().where(schema.question.c.id == name)
        pid = connection.execute(query).mappings().one()["owner_pid"]
    psutil.Process(pid).kill()
    turn_until("failed")
    failed = requests.read_request(engine, name)
    assert failed["error_kind"] == "killed" and "SIGKILL" in failed["error_text"]
    assert left(data_dir) == [], "swept while there is no process"
    assert requests.waiting(engine) == [models], "another process answers that one"
