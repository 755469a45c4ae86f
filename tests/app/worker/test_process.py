import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.worker import process
from app.worker.errors import describe, redact
from app.worker.owners.place import Place
from app.worker.signals import listening
from opd.errors import ErrorKind, UserError
from storage.data_dir import DataDir
from storage.queue.jobs import Owner


def here(folder: Path, owner: Owner | None) -> tuple[Owner, Place]:
    """The owner as of the data directory `folder`."""
    place = Place.of(DataDir(folder))
    assert owner is not None
    return dataclasses.replace(owner, place=place.text), place


def test_a_process_is_known_by_pid_start_and_boot(tmp_path: Path) -> None:
    me = process.this_process(DataDir(tmp_path))
    assert me.place == Place.of(DataDir(tmp_path)).text
    assert me.pid == os.getpid()
    assert process.alive(me)
    assert not process.alive(dataclasses.replace(me, started=me.started - 1))
    assert not process.alive(dataclasses.replace(me, boot="another"))


def test_a_zombie_is_dead() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = process.owner_of(child.pid)
    assert owner is not None and process.alive(owner)
    child.kill()
    deadline = time.monotonic() + 60
    while process.alive(owner):  # it is never waited for in here
        assert time.monotonic() < deadline
    assert os.path.exists(f"/proc/{child.pid}")
    child.communicate()
    assert process.owner_of(child.pid) is None


def test_a_family_is_the_session_and_whatever_carries_the_mark(tmp_path: Path) -> None:
    forks = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()']); input()"
    options = {"stdin": subprocess.PIPE, "env": os.environ | {process.MARK: ""}}
    leader = subprocess.Popen([sys.executable, "-c", forks], start_new_session=True, **options)
    options["env"] = os.environ | {process.MARK: "run-1:2"}
    marked = subprocess.Popen([sys.executable, "-c", "input()"], start_new_session=True, **options)
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        owner, place = here(tmp_path, process.owner_of(leader.pid))
        deadline = time.monotonic() + 60
        while len(members := process.family(owner, "run-1:2", place)) < 3:
            assert time.monotonic() < deadline
        assert {leader.pid, marked.pid} < set(members)
        assert not {other.pid, os.getpid()} & set(members)
        for other_place in ({"boot": "another"}, {"place": "another"}):
            elsewhere = dataclasses.replace(owner, **other_place)
            assert process.family(elsewhere, "run-1:2", place) == []
        reused = dataclasses.replace(owner, started=owner.started - 5)
        assert process.family(reused, "run-1:3", place) == []  # the pid is somebody else's by now
        process.send(members, signal.SIGKILL)
        assert leader.wait(5) == marked.wait(5) == -signal.SIGKILL
    finally:
        for child in (leader, marked, other):
            child.kill()
            child.communicate()


def test_the_session_of_a_shell_is_no_jobs_family(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        owner, place = here(tmp_path, process.owner_of(child.pid))
        assert process.family(owner, "run-1:1", place) == [child.pid]
    finally:
        child.kill()
        child.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of that")
def test_a_process_may_end_with_its_parent() -> None:
    child = (
        "import os, signal, time; from app.worker.process import end_with_parent;"
        "end_with_parent(signal.SIGKILL); os.write(1, b'%d' % os.getpid()); time.sleep(600)"
    )
    between = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    command = [sys.executable, "-c", between, child]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(os.read(parent.stdout.fileno(), 20))
        assert process.owner_of(pid) is not None
        parent.kill()
    until = time.monotonic() + 20
    while process.owner_of(pid) is not None:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_causes_in_words() -> None:
    assert process.cause_of_exit(-9) == (
        "killed by signal 9 (SIGKILL): the system may have run out of memory"
    )
    assert process.cause_of_exit(-11) == "killed by signal 11 (SIGSEGV)"
    assert process.cause_of_exit(3) == "the job's process ended with exit code 3"


def test_a_signal_is_heard_while_the_main_thread_computes() -> None:
    heard = threading.Event()
    before = signal.getsignal(signal.SIGUSR1)
    with listening((signal.SIGUSR1,), lambda _: heard.set()):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard.wait(5)
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    ("error", "kind", "by_input"),
    [
        (MemoryError(), "out of memory", False),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory", False),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling x"), "out of memory", False),
        (RuntimeError("CUDA error: unspecified launch failure"), "device lost", False),
        (RuntimeError("CUDA error: device-side assert triggered"), "error", False),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full", False),
        (
            RuntimeError("Error while serializing: I/O error: No space left on device"),
            "disk full",
            False,
        ),
        (RuntimeError("I/O error: Disk quota exceeded (os error 122)"), "disk full", False),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory", False),
        (
            UserError("no such folder", where="student.model", kind=ErrorKind.MISSING_MODEL),
            "missing model",
            True,
        ),
        (UserError("not finite", kind=ErrorKind.NAN_LOSS), "nan loss", False),
        (ValueError("x"), "error", False),
    ],
)
def test_errors_are_named(error: Exception, kind: str, by_input: bool) -> None:
    failure = describe(error)
    assert (failure.kind, failure.kind.by_input) == (kind, by_input)


def test_secrets_are_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    monkeypatch.setenv("PLAIN", "something else")
    assert redact("no hf_0123456789, something else") == "no <HF_TOKEN>, something else"
