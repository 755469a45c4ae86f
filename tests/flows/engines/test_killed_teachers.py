"""The server of a run's teacher is killed or stalls: the run ends with that cause, keeps its last
step and goes on from there, and no process and no file is left behind."""

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from opd.sampling.vllm.python import VARIABLE
from opd.teachers.vllm_client import RemoteTeacher
from storage.read.runs import read_steps
from tests.support import tiny_models
from tests.support.in_process_runs import JobRunner
from tests.support.network.vllm_scripts import JUDGES

PROBED = '{"there": true, "version": "0.32.0", "weights": true}'
REAL = [
    pytest.mark.engines,
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set"),
]
BUNDLED = {
    **{"student": {"model": "bundled/student"}, "teacher": {"engine": "vllm"}},
    "prompts": {"count": 16, "probe": 0},
    "evaluation": {"prompts": 4, "every": 0, "keep": 1},
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture
def runner(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobRunner]:
    scratch = Path(tempfile.mkdtemp(prefix="opd-t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    made = JobRunner(tmp_path / "data", inputs)
    yield made
    made.engine.dispose()
    assert not [*scratch.iterdir()] and not servers()
    scratch.rmdir()


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python whose vLLM gives every token the same score."""
    (tmp_path / "judges.py").write_text(JUDGES)
    path = tmp_path / "python"
    path.write_text(
        f"#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{PROBED}'; exit; fi\n"
        'if [ "$FAKE_VLLM_FAULT" = start ]; then kill -9 $$; fi\n'
        f'exec {sys.executable} -S {tmp_path / "judges.py"} "$@"\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(path))


def servers() -> list[psutil.Process]:
    """What the guards of this process have started."""
    processes = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "guard.py" in " ".join(child.cmdline()):
                processes += child.children()
        except psutil.Error:
            continue
    return processes


def queued(runner: JobRunner, inputs: Path | None = None, **changes: Any) -> str:
    sampling = {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 6}
    settings: dict[str, Any] = {"device": "cpu", "checkpoints": {"every": 0}, "steps": 3}
    if inputs is not None:
        settings["teacher"] = {"model": str(inputs / "teacher"), "engine": "vllm", "top_k": 0}
        settings["objective"] = "policy_gradient"
    return runner.queue(sampling=sampling, **settings | changes)


def meets(
    monkeypatch: pytest.MonkeyPatch, runner: JobRunner, run_id: str, step: int, *, kill: bool
) -> None:
    """Once the run has done `step`, its teacher's server is stopped as it is asked again; and, in
    the middle of that, killed."""
    original, met = RemoteTeacher.stream, list[int]()

    def stream(self: RemoteTeacher, *rows: Any) -> Any:
        if runner.run(run_id)["step"] == step and not met:
            [server] = servers()
            met.append(server.pid)
            os.kill(server.pid, signal.SIGSTOP)
            if kill:
                threading.Timer(0.3, os.kill, (server.pid, signal.SIGKILL)).start()
        return original(self, *rows)

    monkeypatch.setattr(RemoteTeacher, "stream", stream)


def test_one_that_is_killed_while_it_starts_ends_the_run(runner, inputs, python, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM_FAULT", "start")
    run_id = queued(runner, inputs)
    attempt = runner.attempt(run_id)
    assert (attempt["status"], attempt["error_kind"]) == ("failed", "teacher server")
    assert (
        "teacher.engine: the teacher's vLLM server was killed by signal 9" in attempt["error_text"]
    )
    assert "vllm-teacher.txt" in attempt["error_text"] and runner.at_rest(run_id) == []


@pytest.mark.parametrize("step", [0, 1])
def test_one_that_is_killed_while_it_scores_costs_no_step(
    runner, inputs, python, monkeypatch, step
):
    run_id = queued(runner, inputs)
    meets(monkeypatch, runner, run_id, step, kill=True)
    attempt = runner.attempt(run_id)
    assert (attempt["status"], attempt["error_kind"]) == ("failed", "teacher server")
    assert (
        "teacher.engine: the teacher's vLLM server was killed by signal 9" in attempt["error_text"]
    )
    assert runner.at_rest(run_id) == ([step] if step else [])
    assert runner.attempt(run_id)["status"] == "finished"
    assert read_steps(runner.engine, run_id)["columns"]["step"] == [1, 2, 3]


def test_one_that_stalls_costs_no_step(runner, inputs, python, monkeypatch):
    teacher = {"model": str(inputs / "teacher"), "engine": "vllm", "top_k": 0, "timeout": 0.5}
    run_id = queued(runner, inputs, teacher=teacher)
    meets(monkeypatch, runner, run_id, 1, kill=False)
    attempt = runner.attempt(run_id)
    assert (attempt["status"], attempt["error_kind"]) == ("failed", "teacher server")
    assert "no answer within 0.5 s (teacher.timeout)" in attempt["error_text"]
    assert runner.at_rest(run_id) == [1]


@pytest.mark.parametrize("kill", [pytest.param(True, marks=REAL)])
def test_a_real_one_is_killed_while_it_scores_and_the_run_goes_on(runner, monkeypatch, kill):
    """By the exact divergence, which takes all ids that there are."""
    run_id = queued(runner, **BUNDLED)
    meets(monkeypatch, runner, run_id, 1, kill=kill)
    attempt = runner.attempt(run_id)
    assert (attempt["status"], attempt["error_kind"]) == ("failed", "teacher server")
    assert "the teacher's vLLM server was killed by signal 9 (SIGKILL)" in attempt["error_text"]
    assert runner.at_rest(run_id) == [1] and not servers()
    done = runner.attempt(run_id)
    assert done["status"] == "finished", done["error_text"]
    served = read_steps(runner.engine, run_id)["columns"]
    local_id = queued(runner, **BUNDLED | {"teacher": {"engine": "local"}})
    assert runner.attempt(local_id)["status"] == "finished"
    local = read_steps(runner.engine, local_id)["columns"]
    assert served["step"] == local["step"] == [1, 2, 3]
    assert served["loss"] == pytest.approx(local["loss"], rel=2e-5)
