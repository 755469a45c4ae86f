"""One holder of a lock file, seen by processes of any version."""

import subprocess
import sys
from pathlib import Path

from storage.locks import held, take


def test_one_process_holds_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.lock"
    assert not held(path)
    first = take(path)
    assert first is not None
    assert held(path)
    assert take(path) is None
    first.close()
    assert not held(path)
    assert path.exists()


def test_a_lock_taken_by_flock_alone_is_seen(tmp_path: Path) -> None:
    """The way in which the first version took it."""
    path = tmp_path / "answerer.lock"
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'ab')\n"
        "fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB); print('held', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin and other.stdout
    assert other.stdout.readline() == b"held\n"
    assert held(path)
    assert take(path) is None
    other.communicate(b"\n")
    assert not held(path)
