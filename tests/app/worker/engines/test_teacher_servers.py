"""Servers of teachers end with their job, and what becomes of them is told at their field."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from app.worker.engines.teacher_servers import TeacherServers, check_teacher_engines
from opd.config.models import RouteConfig
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from opd.models.batches import Sequences
from opd.sampling.sample import NEVER, Stopped
from opd.sampling.vllm.python import VARIABLE
from opd.teachers.local import Reader
from opd.teachers.served import ServedModel, ServedTeacher
from storage.data_dir import RunDir
from tests.support.network.vllm_scripts import JUDGES, child_of, gone

ROWS = Sequences([[3, 4]], [[5, 6]])
READER = Reader(30, 0, torch.device("cpu"))


def judge(tmp_path: Path, **settings: object) -> ServedTeacher:
    config = RouteConfig(kind="model", engine="vllm", top_k=2, dtype="float32", **settings)
    folder = tmp_path / "model"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    return ServedTeacher(ServedModel("teacher", config, folder, 30, 2), READER, NEVER, None)


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each teacher's connections, once its test has ended."""
    made: list[ServedTeacher] = []
    start = ServedTeacher.start
    monkeypatch.setattr(
        ServedTeacher, "start", lambda self, *a: (made.append(self), start(self, *a))
    )
    yield
    for teacher in made:
        teacher.close()


def servers_in(tmp_path: Path, stop=NEVER) -> TeacherServers:
    return TeacherServers(RunDir(tmp_path / "run"), stop, lambda _: None)


def pid_of(servers: TeacherServers) -> int:
    guard = servers._servers["teacher"]._guard
    assert guard is not None
    return child_of(guard.pid)


@contextmanager
def explained(servers: TeacherServers) -> Iterator[list[UserError]]:
    """What the job would say of the error that leaves the block."""
    errors: list[UserError] = []
    with pytest.raises(UserError) as caught, servers:
        yield errors
    errors.append(servers.explained(caught.value))


def test_it_judges_and_ends_with_the_block(tmp_path, python):
    python(JUDGES)
    with servers_in(tmp_path) as servers:
        teacher = judge(tmp_path)
        teacher.start(servers.serve, 40, 1)
        (reading,) = teacher.read([ROWS], 1.0)
        view = reading.view(slice(0, 2), torch.tensor([5, 6]))
        assert view.at.tolist() == [-1, -1] and view.rank.tolist() == [0, 0]
        pid = pid_of(servers)
        assert (tmp_path / "run" / "vllm-teacher.txt").is_file()
    assert gone(pid)


def test_its_command_opens_no_port_and_takes_the_raw_distribution(tmp_path, python):
    python(f"import sys; open({str(tmp_path / 'seen')!r}, 'w').write(' '.join(sys.argv[1:]))")
    with explained(servers_in(tmp_path)), servers_in(tmp_path) as servers:
        judge(tmp_path).start(servers.serve, 40, 1)
    command = (tmp_path / "seen").read_text()
    assert command.startswith("-m vllm.entrypoints.openai.api_server --uds /")
    assert "--port" not in command and "--host" not in command
    assert "--logprobs-mode raw_logprobs --max-logprobs 2 " in command
    assert f"--model {tmp_path / 'model'} " in command and "--max-model-len 41 " in command


def test_one_that_cannot_start_is_named(tmp_path, python):
    python("print('ValueError: no such architecture'); raise SystemExit(3)")
    with explained(servers := servers_in(tmp_path)) as errors:
        judge(tmp_path).start(servers.serve, 40, 1)
    assert errors[0].where == "teacher.engine" and errors[0].kind is ErrorKind.TEACHER_SERVER
    assert "the teacher's vLLM server ended with exit code 3: ValueError: no" in errors[0].message
    assert "vllm-teacher.txt" in errors[0].message


@pytest.mark.parametrize("moment", ["starting", "between", "scoring"])
def test_one_that_is_killed_is_named(tmp_path, python, moment):
    slow = "if len(body['prompt'][0]) == 4: __import__('time').sleep(60)"  # ROWS, not known tokens
    scripts = {
        "starting": "import os; os.kill(os.getpid(), 9)",
        "between": JUDGES,
        "scoring": JUDGES.replace("            k = ", f"            {slow}\n            k = "),
    }
    python(scripts[moment])
    with explained(servers := servers_in(tmp_path)) as errors:
        teacher = judge(tmp_path)
        teacher.start(servers.serve, 40, 1)
        pid = pid_of(servers)
        if moment == "between":
            os.kill(pid, signal.SIGKILL)
            assert gone(pid)
        else:
            threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        list(teacher.read([ROWS], 1.0))
    assert errors[0].where == "teacher.engine"
    assert errors[0].message.startswith(
        "the teacher's vLLM server was killed by signal 9 (SIGKILL)"
    )


def test_one_that_stalls_ends_the_reading_and_is_ended(tmp_path, python):
    python(JUDGES)
    with explained(servers := servers_in(tmp_path)) as errors:
        teacher = judge(tmp_path, timeout=0.3)
        teacher.start(servers.serve, 40, 1)
        pid = pid_of(servers)
        os.kill(pid, signal.SIGSTOP)
        list(teacher.read([ROWS], 1.0))
    assert "no answer within 0.3 s (teacher.timeout)" in errors[0].message
    assert errors[0].where == "teacher.engine" and gone(pid)


def test_a_stop_while_it_starts_leaves_none_behind(tmp_path, python):
    python("import time; time.sleep(60)")
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with servers_in(tmp_path, stop=lambda: True) as servers, pytest.raises(Stopped):
        judge(tmp_path).start(servers.serve, 40, 1)
    after = {p.pid for p in psutil.Process().children(recursive=True)}
    assert after <= before


def test_it_is_not_started_for_sequences_that_it_cannot_read(tmp_path):
    teacher = judge(tmp_path)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 30}
    (tmp_path / "model" / "config.json").write_text(
        str(shape | {"intermediate_size": 8, "max_position_embeddings": 40}).replace("'", '"')
    )
    with pytest.raises(UserError, match=r"reads 40 tokens at most; the longest .* have 40"):
        teacher.start(lambda _: pytest.fail("started"), 40, 1)


def test_what_cannot_be_started_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    check_teacher_engines(parse({}))
    with pytest.raises(UserError, match="needs the environment variable") as caught:
        check_teacher_engines(parse({"teacher": {"engine": "vllm"}}))
    assert caught.value.where == "teacher.engine"
    assert replace(ServedModel("t", RouteConfig(), Path(), 9), top_k=3).top_k == 3
