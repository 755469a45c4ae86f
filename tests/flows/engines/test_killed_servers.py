"""The server of a run is killed, stalls or ends by itself: the run ends with that cause, keeps its
last step and goes on from there, and no process and no file is left behind."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from opd.sampling.vllm import client
from opd.sampling.vllm.client import VllmClient
from opd.sampling.vllm.python import VARIABLE
from storage.read.runs import read_evaluations, read_steps
from tests.support import tiny_models
from tests.support.in_process_runs import JobRunner
from tests.support.network.fake_vllm import FakeVllm

PROCESS = Path(__file__).parents[2] / "support/network/fake_vllm_process.py"
PROBED = '{"there": true, "version": "0.32.0", "weights": true}'
REAL = [
    pytest.mark.engines,
    pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set"),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the servers' folders are made; its path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="opd-t-", dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def runner(inputs: Path, tmp_path: Path, scratch: Path) -> Iterator[JobRunner]:
    made = JobRunner(tmp_path / "data", inputs)
    yield made
    made.engine.dispose()
    assert not [*scratch.iterdir()] and not servers()
    scratch.rmdir()


def servers() -> list[psutil.Process]:
    """The guards of this process, and what they have started."""
    children = psutil.Process().children(recursive=True)
    return [
        p for p in children if p.status() != psutil.STATUS_ZOMBIE and "guard.py" in command_line(p)
    ]


def command_line(child: psutil.Process) -> str:
    try:
        return " ".join(child.cmdline())
    except psutil.Error:
        return ""


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: Path) -> Iterator[None]:
    """A Python whose vLLM is the fake one; it may be killed before it has begun."""
    path = tmp_path / "python"
    path.write_text(
        f"#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{PROBED}'; exit; fi\n"
        'if [ "$FAKE_VLLM_FAULT" = start ]; then kill -9 $$; fi\n'
        f'exec {sys.executable} -S {PROCESS} "$@"\n'
    )
    path.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(path))
    with FakeVllm(inputs / "student") as fake:
        monkeypatch.setenv("FAKE_VLLM_PORT", fake.url.rpartition(":")[2])
        yield


def queued(runner: JobRunner, **changes: Any) -> str:
    sampling = {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 6, "engine": "vllm"}
    settings = {"device": "cpu", "checkpoints": {"every": 0}, "steps": 3}
    return runner.queue(sampling=sampling, **settings | changes)


@pytest.mark.parametrize(
    ("fault", "cause", "kept"),
    [
        ("start", "the vLLM server was killed by signal 9 (SIGKILL)", []),
        ("/update_weights:2:9", "the vLLM server was killed by signal 9 (SIGKILL)", [2]),
        ("/update_weights:2:19", "/health does not answer within 1 s", [2]),
    ],
    ids=["starting", "taking weights", "stalling"],
)
def test_a_server_that_fails_costs_no_step(runner, python, monkeypatch, fault, cause, kept):
    monkeypatch.setenv("FAKE_VLLM_FAULT", fault)
    monkeypatch.setattr(client, "PATIENCE", 1.0)
    monkeypatch.setattr(client, "LOOK_EVERY", 0.3)
    run_id = queued(runner)
    attempt = runner.attempt(run_id)
    assert (attempt["status"], attempt["error_kind"]) == ("failed", "sampling server")
    assert cause in attempt["error_text"] and "vllm.txt" in attempt["error_text"]
    assert runner.at_rest(run_id) == kept


def test_a_server_that_ends_while_it_writes_costs_no_step_and_the_run_goes_on(
    runner, python, monkeypatch
):
    run_id = queued(runner)
    original = VllmClient.ask_all
    killed = []

    def ask_all(self: VllmClient, path: str, bodies: list[Any], stop: Any) -> list[Any]:
        if bodies[0]["n"] > 1 and runner.run(run_id)["step"] == 1 and not killed:
            [guard] = servers()[:1]
            killed.append(guard.children()[0])
            killed[0].send_signal(signal.SIGSTOP)  # so that it is writing when it is killed
            threading.Timer(0.2, killed[0].kill).start()
        return original(self, path, bodies, stop)

    monkeypatch.setattr(VllmClient, "ask_all", ask_all)
    attempt = runner.attempt(run_id)
    assert attempt["status"] == "failed" and killed
    assert attempt["error_text"].startswith(
        "sampling.engine: the vLLM server was killed by signal 9"
    )
    assert runner.at_rest(run_id) == [1]
    assert runner.attempt(run_id)["status"] == "finished"
    columns = read_steps(runner.engine, run_id)["columns"]
    assert columns["step"] == [1, 2, 3] and max(columns["sampler_gap"]) < 1e-4
    assert "the same distribution, not the same samples" in runner.log(run_id)


BUNDLED = {
    **{"student": {"model": "bundled/student"}, "teacher": "bundled/teacher"},
    "prompts": {"count": 16, "probe": 2},
    "evaluation": {"prompts": 4, "every": 2, "keep": 1, "teacher": False},
}


@pytest.mark.parametrize("lora", [pytest.param({"rank": 4}, marks=REAL)])
def test_a_real_server_is_killed_while_it_writes_and_the_run_goes_on(runner, monkeypatch, lora):
    """With an adapter; the whole weights are trained below."""
    run_id = queued(runner, **{**BUNDLED, "student": {"model": "bundled/student", "lora": lora}})
    original, killed = VllmClient.ask_all, []

    def ask_all(self: VllmClient, path: str, bodies: list[Any], stop: Any) -> list[Any]:
        if runner.run(run_id)["step"] == 1 and not killed:
            killed.append(servers()[0].children()[0])
            killed[0].send_signal(signal.SIGSTOP)
            threading.Timer(0.5, killed[0].kill).start()
        return original(self, path, bodies, stop)

    monkeypatch.setattr(VllmClient, "ask_all", ask_all)
    attempt = runner.attempt(run_id)
    assert (attempt["status"], attempt["error_kind"]) == ("failed", "sampling server")
    assert "the vLLM server was killed by signal 9 (SIGKILL)" in attempt["error_text"]
    assert runner.at_rest(run_id) == [1] and not servers()
    done = runner.attempt(run_id)
    assert done["status"] == "finished", done["error_text"]
    columns = read_steps(runner.engine, run_id)["columns"]
    assert columns["step"] == [1, 2, 3] and max(columns["sampler_gap"]) < 1e-3
    evaluations = read_evaluations(runner.engine, run_id)["items"]
    assert {e["step"] for e in evaluations} == {0, 2, 3}


@pytest.mark.parametrize("signalled", [pytest.param(signal.SIGKILL, marks=REAL)])
def test_a_job_that_is_killed_leaves_no_real_server(runner, signalled):
    """All weights; `opd train` is killed once a step is stored."""
    run_id = queued(runner, **BUNDLED, name="killed")
    options = ["--data-dir", str(runner.data_dir)]
    command = [sys.executable, "-m", "app.worker.job", run_id, *options]
    temporary = os.environ | {"TMPDIR": tempfile.gettempdir()}
    job = subprocess.Popen(command, env=temporary)
    until = time.monotonic() + 150
    while runner.run(run_id)["step"] < 1 and job.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    assert runner.run(run_id)["step"] >= 1
    left = psutil.Process(job.pid).children(recursive=True)
    assert len(left) >= 4  # guard, server, engine, worker
    job.send_signal(signalled)
    job.wait()
    _, alive = psutil.wait_procs(left, timeout=15)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert runner.run(run_id)["status"] == "running"  # until a supervisor finds it dead
