"""A vLLM server is started for a job, named when it ends, and outlives the job in no way.

In the place of vLLM's Python stands a script: it answers what is asked of a Python, and serves.
"""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.worker.engines import guard, student_server
from app.worker.engines import server as job_server
from app.worker.engines.student_server import StudentServer, check_engine
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from opd.sampling.vllm.python import VARIABLE
from opd.sampling.vllm.serving import ServerSettings
from opd.sampling.vllm.share import ServerShare
from storage.data_dir import RunDir
from tests.support.network.vllm_scripts import SERVES, child_of, gone


def settings() -> ServerSettings:
    return ServerSettings(Path.mkdir, "float32", "cpu", 64, 8, ServerShare(1, 1000, 1), 0)


def server_in(folder: Path, stop: Callable[[], bool] = lambda: False) -> StudentServer:
    return StudentServer(RunDir(folder / "run"), stop, lambda _: None)


def test_it_listens_where_only_its_user_can_enter_and_ends_with_the_block(tmp_path, python):
    python(SERVES)
    with server_in(tmp_path) as server:
        socket = server.start(settings())
        assert socket is not None and stat.S_ISSOCK(socket.stat().st_mode)
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert len(os.fsencode(socket)) < job_server.LONGEST_SOCKET
        assert (socket.parent / "model").is_dir()
        assert server._guard is not None
        pid = child_of(server._guard.pid)
    assert gone(pid) and not socket.parent.exists()


def test_its_command_opens_no_port_and_takes_the_raw_distribution(tmp_path, python):
    python(f"import sys; open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv[1:]))")
    with server_in(tmp_path) as server, pytest.raises(UserError):
        server.start(settings())
    command = (tmp_path / "seen").read_text()
    assert command.startswith("-m vllm.entrypoints.openai.api_server --uds /")
    assert "--port" not in command and "--host" not in command
    assert "--logprobs-mode processed_logprobs --generation-config vllm" in command
    assert "--worker-extension-cls opd_weight_files.WeightFiles" in command


def test_on_a_gpu_it_takes_what_the_plan_has(tmp_path):
    on_card = replace(settings(), device="cuda:1", card_bytes=4e9, share=ServerShare(10**9, 7, 9))
    command = student_server._arguments(on_card, tmp_path)
    text = " ".join(command)
    assert "--kv-cache-memory-bytes 7 --gpu-memory-utilization 0.2500" in text
    assert "--max-num-batched-tokens 8192" in text and "--enforce-eager" not in text


def test_one_that_cannot_start_is_named_with_what_it_said(tmp_path, python):
    said = "(EngineCore pid=7) ERROR 11-27 10:12:16 [core.py:1] ValueError: no such architecture"
    python(f"import sys; print({said!r}); print('see above'); sys.exit(3)")
    with (
        server_in(tmp_path) as server,
        pytest.raises(
            UserError, match="ended with exit code 3: ValueError: no such arch"
        ) as caught,
    ):
        server.start(settings())
    assert caught.value.kind is ErrorKind.SAMPLING_SERVER
    assert "vllm.txt" in caught.value.message


def test_one_that_is_killed_is_named(tmp_path, python):
    python(SERVES)
    error = UserError("no answer", where="sampling.engine", kind=ErrorKind.SAMPLING_SERVER)
    server = server_in(tmp_path)
    with pytest.raises(UserError), server:
        server.start(settings())
        assert server._guard is not None
        os.kill(child_of(server._guard.pid), signal.SIGKILL)
        raise error
    message = server.explained(error).message
    assert message.startswith("the vLLM server was killed by signal 9 (SIGKILL)")
    other = UserError("x", kind=ErrorKind.TEACHER_SERVER)
    assert server.explained(other) is other


def test_one_that_lives_is_not_said_to_have_ended(tmp_path, python):
    python(SERVES)
    error = UserError("differ", where="sampling.engine", kind=ErrorKind.SAMPLING_SERVER)
    server = server_in(tmp_path)
    guard_grace, guard.GRACE = guard.GRACE, 0.2
    try:
        with pytest.raises(UserError), server:
            server.start(settings())
            raise error
    finally:
        guard.GRACE = guard_grace
    assert server.explained(error).message.startswith("differ (")


def test_a_stop_while_it_starts_leaves_none_behind(tmp_path, python):
    python("import time; time.sleep(60)")
    with server_in(tmp_path, stop=lambda: True) as server:
        assert server.start(settings()) is None
        assert server._guard is not None
        guard = server._guard
    assert guard.poll() is not None


def test_it_ends_when_its_job_is_killed(tmp_path):
    """And what the server has started, and its folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    sleeps = "import time; time.sleep(60)"
    server = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeps!r}])"
    code = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, {guard.__file__!r}, str(os.getpid()), {str(folder)!r},"
        f" '--', sys.executable, '-c', {server!r}])\n"
        "time.sleep(60)\n"
    )
    job = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 20
    started: list[psutil.Process] = []
    while len(started) < 3 and time.monotonic() < until:
        time.sleep(0.05)
        started = psutil.Process(job.pid).children(recursive=True)
    assert len(started) == 3
    job.kill()
    job.wait()
    assert all(gone(p.pid) for p in started)
    assert not folder.exists()


def test_what_cannot_be_started_is_refused_before_anything_is_loaded(python, monkeypatch):
    config = parse({"sampling": {"engine": "vllm"}})
    monkeypatch.delenv(VARIABLE, raising=False)
    check_engine(parse({}))
    with pytest.raises(UserError, match="needs the environment variable OPD_VLLM_PYTHON") as caught:
        check_engine(config)
    assert caught.value.kind is ErrorKind.MISSING_EXTRA
    for probed, message in {
        '{"there": false, "version": "", "weights": false}': "has no vLLM: install vllm there",
        '{"there": true, "version": "0.9", "weights": false}': "has vLLM 0.9, whose server does",
        "nonsense": "is not a Python",
    }.items():
        python("", probed)
        with pytest.raises(UserError, match=message):
            check_engine(config)
    monkeypatch.setenv(VARIABLE, "/nonexistent/python")
    with pytest.raises(UserError, match="is not a Python"):
        check_engine(config)
    monkeypatch.setenv(VARIABLE, sys.executable)  # a real one, without vLLM
    with pytest.raises(UserError, match="has no vLLM"):
        check_engine(config)
