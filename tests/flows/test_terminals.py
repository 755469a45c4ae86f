"""Runs in the foreground whose terminal, streams or readers leave them."""

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.read.runs import read_runs
from tests.support.fake_training import SCRIPT
from tests.support.studio import Studio


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(tmp_path / "data")
    yield made
    made.close()


def arguments(studio: Studio, name: str, steps: int) -> list[str]:
    command = [sys.executable, str(SCRIPT), "cli", "train", "demo", "--data-dir"]
    settings = [f"name={name}", f"steps={steps}", "device=cpu", "checkpoints.every=1000"]
    return [*command, str(studio.data_dir), *(f"--set={text}" for text in settings)]


def run_id_of(studio: Studio) -> str:
    studio.wait(lambda: read_runs(studio.engine)["total"])
    [run] = read_runs(studio.engine)["items"]
    return str(run["id"])


def test_a_run_whose_terminal_is_closed_saves_and_says_why(studio: Studio) -> None:
    process, terminal = pty.fork()
    if process == 0:
        command = arguments(studio, "slow", 5000)
        os.execve(command[0], command, studio.environment() | {"TERM": "xterm"})
    run_id = run_id_of(studio)
    studio.wait_step(run_id, 3)
    os.close(terminal)
    studio.wait_status(run_id, "interrupted")
    run = studio.run(run_id)
    assert (run["error_kind"], run["checkpoints"][-1]["step"]) == ("terminated", run["step"])
    assert "SIGHUP" in run["error_text"]
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 130


def test_a_run_without_any_stream_finishes_and_keeps_its_log(studio: Studio) -> None:
    command = ["bash", "-c", '"$@" <&- >&- 2>&-; echo $?', "-", *arguments(studio, "fast", 4)]
    environment = studio.environment() | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("0\n", "")
    run_id = run_id_of(studio)
    assert studio.status(run_id) == "finished"
    log = (studio.data_dir / "runs" / run_id / "log.txt").read_text(encoding="utf-8")
    assert "±" in log and "Logging error" not in log


@pytest.mark.parametrize(("name", "code"), [("fast", 0), ("memory", 1)])
def test_how_a_run_ended_counts_not_who_reads_of_it(studio: Studio, name: str, code: int) -> None:
    line = '"$@" 2>&1 | true; echo ${PIPESTATUS[0]}'
    ended = subprocess.run(
        ["bash", "-c", line, "-", *arguments(studio, name, 4)],
        env=studio.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert (ended.stdout, ended.stderr) == (f"{code}\n", "")
