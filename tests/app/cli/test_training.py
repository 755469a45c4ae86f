import dataclasses
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cli import training
from app.worker.errors import Failure
from app.worker.job import Outcome
from app.worker.process import this_process
from opd.errors import ErrorKind
from storage.data_dir import DataDir
from storage.read.runs import read_runs
from tests.support.databases.matrix import new_database
from tests.support.stored_runs import interrupted_run, me, write_prompts
from tests.support.studio import Studio


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(tmp_path / "data")
    yield made
    made.close()


def recipe(tmp_path: Path, name: str = "fast", steps: int = 6) -> str:
    path = tmp_path / f"{name}.yaml"
    path.write_text(f"name: {name}\nsteps: {steps}\ndevice: cpu\ncheckpoints:\n  every: 2\n")
    return str(path)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def only(studio: Studio, status: str) -> str:
    """The id of the one run in that state, once there is one."""
    runs: list[dict[str, Any]] = []

    def look() -> bool:
        runs[:] = read_runs(studio.engine, status=status)["items"]
        return bool(runs)

    studio.wait(look)
    [run] = runs
    return str(run["id"])


def test_train_ends_with_one_object(studio: Studio, tmp_path: Path) -> None:
    """Also beside a supervisor, which leaves a foreground run to its command."""
    studio.supervisor()
    code, out, err = ended(studio.start("cli", "train", recipe(tmp_path), "--json"))
    assert code == 0
    result = json.loads(out.splitlines()[-1])
    assert result == {
        "run_id": result["run_id"],
        "status": "finished",
        "steps": 6,
        "end_reason": "",
        "metrics": {
            "reverse_kl": pytest.approx(1 / 6),
            "eval/heldout/pass@1": 0.75,
            "eval/heldout/pass@1/start": 0.25,
        },
    }
    assert "step 6/6  KL 0.167" in err
    assert studio.run(result["run_id"])["attempt"] == 1
    log = studio.data_dir / "runs" / result["run_id"] / "log.txt"
    assert log.read_text().count("step 6/6") == 1


def test_ctrl_c_saves_and_resume_goes_on(studio: Studio, tmp_path: Path) -> None:
    train = studio.start("cli", "train", recipe(tmp_path, "slow", 15))
    run_id = only(studio, "running")
    studio.wait_step(run_id, 3)
    train.send_signal(signal.SIGINT)
    code, _, err = ended(train)
    assert code == 130
    assert f"opd resume {run_id}" in err
    assert "Traceback" not in err
    run = studio.run(run_id)
    assert run["status"] == "interrupted" and run["error_text"] == "stopped with Ctrl-C"
    assert run["checkpoints"][-1]["step"] == run["step"]
    (Path(run["checkpoints"][-1]["path"]) / "state.json").write_text("{}")  # a damaged one
    partial = studio.data_dir / "runs" / run_id / "checkpoints" / ".step-000099.partial"
    partial.mkdir()
    code, out, _ = ended(studio.start("cli", "resume", run_id, "--json"))
    assert code == 0
    assert json.loads(out)["steps"] == 15
    assert not partial.exists()
    log = (studio.data_dir / "runs" / run_id / "log.txt").read_text()
    assert "was changed since it was saved; trying the one before" in log
    code, _, err = ended(studio.start("cli", "resume", run_id))
    assert code == 2 and "cannot be resumed: it is finished" in err


def test_resume_takes_over_from_the_dead_at_once(studio: Studio, tmp_path: Path) -> None:
    train = studio.start("cli", "train", recipe(tmp_path, "slow", 40))
    run_id = only(studio, "running")
    studio.wait_step(run_id)
    code, _, err = ended(studio.start("cli", "resume", run_id))
    assert code == 2 and f"is running (process {train.pid})" in err
    train.kill()
    train.wait()
    assert studio.status(run_id) == "running"  # there is no supervisor to notice
    code, out, _ = ended(studio.start("cli", "resume", run_id, "--json"))
    assert code == 0
    assert json.loads(out)["steps"] == 40
    assert studio.run(run_id)["attempt"] == 2


def test_resume_refuses_changed_data_and_leaves_the_run_as_it_is(
    opd: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    engine = new_database(tmp_path / "data")
    run_id = interrupted_run(engine, tmp_path / "rows.jsonl")
    write_prompts(tmp_path / "rows.jsonl", 3)
    code, out, err = opd("resume", run_id)
    assert (code, out) == (2, "")
    assert err.startswith(
        f"Error: {run_id}: changed since the run started: prompts.source: rows.jsonl has 3 rows, "
        "4 when the run started. "
    )
    assert f"opd resume {run_id} --accept-changes" in err
    assert read_runs(engine)["items"][0]["status"] == "interrupted"
    engine.dispose()


def test_train_waits_for_the_device_and_says_for_what(studio: Studio, tmp_path: Path) -> None:
    first = studio.start("cli", "train", recipe(tmp_path, "slow", 500))
    holder = only(studio, "running")
    second = studio.start("cli", "train", recipe(tmp_path))
    third = studio.start("cli", "train", recipe(tmp_path))
    assert third.stderr is not None
    line = third.stderr.readline()
    assert holder in line and "waiting for the device" in line
    third.send_signal(signal.SIGINT)
    assert third.wait(300) == 130
    only(studio, "cancelled")
    code, out, _ = ended(studio.start("cli", "cancel", holder))
    assert (code, out) == (0, f"{holder} cancelled\n")
    assert ended(first)[0] == 1
    assert ended(second)[0] == 0


def test_cancel_does_without_a_supervisor(studio: Studio, tmp_path: Path) -> None:
    train = studio.start("cli", "train", recipe(tmp_path, "slow", 500))
    run_id = only(studio, "running")
    studio.wait_step(run_id, 3)
    code, out, _ = ended(studio.start("cli", "cancel", run_id, "--discard"))
    assert (code, out) == (0, f"{run_id} cancelled\n")
    assert ended(train)[0] == 1
    assert not (studio.data_dir / "runs" / run_id / "checkpoints").exists()
    code, _, err = ended(studio.start("cli", "cancel", run_id))
    assert code == 2 and "has already ended (cancelled)" in err


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [("no model", 2, "student.model: no such model folder: /x"), ("memory", 1, "MemoryError")],
)
def test_exit_codes_tell_whose_fault_it_was(
    studio: Studio, tmp_path: Path, name: str, code: int, text: str
) -> None:
    exit_code, out, err = ended(studio.start("cli", "train", recipe(tmp_path, name), "--json"))
    assert exit_code == code
    assert json.loads(out)["status"] == "failed"
    assert f"Error: {text}" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("kind", "code", "line"),
    [
        (ErrorKind.MISSING_MODEL, 2, "Error: no ../x"),
        (ErrorKind.DISK_FULL, 1, f"Error: no ../x. {ErrorKind.DISK_FULL.hint}"),
    ],
)
def test_a_failure_is_told_as_it_is(
    capsys: pytest.CaptureFixture[str], kind: ErrorKind, code: int, line: str
) -> None:
    """What the user's input caused says itself what to do; advice is added to the rest."""
    outcome = Outcome("failed", Failure(kind, "no ../x."))
    assert training._exit_code(outcome, "run-1") == code
    assert capsys.readouterr().err == f"{line}\n"


def test_a_dead_waiter_wants_its_run_no_more(studio: Studio) -> None:
    owner = dataclasses.replace(this_process(DataDir(studio.data_dir)), started=1.0)
    run_id = studio.queue(waiter=owner)
    studio.supervisor()
    studio.wait_status(run_id, "cancelled")


def test_a_waited_for_run_is_left_to_its_command(studio: Studio) -> None:
    mine, other = studio.queue(waiter=me()), studio.queue()
    studio.supervisor()
    studio.wait_status(other, "finished")
    assert studio.status(mine) == "queued"
