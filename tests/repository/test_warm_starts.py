"""What the suite starts as forks are the processes that were asked for."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from app.worker.process import program
from tests import warm_starts

pytestmark = pytest.mark.skipif(
    "PYTEST_XDIST_WORKER" not in os.environ or sys.platform != "linux",
    reason="only workers of the whole suite have forks",
)


@contextmanager
def supervisor(folder: Path, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Ended afterwards, whatever the test found."""
    command = [*program("app.worker.supervisor"), "--data-dir", str(folder)]
    process = subprocess.Popen(
        command,
        cwd=folder,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(60)


def has_torch(pid: int) -> bool:
    return any("torch" in m.path for m in psutil.Process(pid).memory_maps())


def test_a_fork_has_what_it_was_given(tmp_path: Path) -> None:
    with supervisor(tmp_path, OPD_JOB="some:1") as started:
        seen = psutil.Process(started.pid)
        early = {name for name in os.environ if name.startswith(warm_starts.READ_EARLY)}
        assert has_torch(started.pid), f"it is none; of the environment it reads {early}"
        assert seen.ppid() == os.getpid() and os.getsid(started.pid) == started.pid
        assert [part for part in seen.cmdline() if part] == started.args
        assert seen.environ()["OPD_JOB"] == "some:1" and Path(seen.cwd()) == tmp_path
        started.kill()
        assert started.wait(60) == -signal.SIGKILL


def test_an_ordinary_start_is_one_environment_away(tmp_path: Path) -> None:
    with supervisor(tmp_path, **{warm_starts.COLD: "1"}) as started:
        assert not has_torch(started.pid)


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["nonsense"], 2)])
def test_its_end_and_its_words_arrive(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "app.cli.main", *arguments]
    forked, ordinary = (
        subprocess.run(command, capture_output=True, text=True, env=os.environ | more, check=False)
        for more in ({}, {warm_starts.COLD: "1"})
    )
    assert forked.returncode == ordinary.returncode == code
    assert (forked.stdout, forked.stderr) == (ordinary.stdout, ordinary.stderr)
