"""Locks where there is no flock: simulated by one that is not implemented."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from storage import locks
from storage.files import beating_locks
from storage.files.beating_locks import BeatingLock, file_of, is_held
from tests.support.fake_training import ROOT


@pytest.fixture(autouse=True)
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)


def silent_for(path: Path, seconds: float) -> None:
    before = file_of(path).stat().st_mtime - seconds
    os.utime(file_of(path), (before, before))


def test_one_process_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.lock"
    assert not locks.held(path)
    first = locks.take(path)
    assert isinstance(first, BeatingLock)
    assert locks.held(path) and locks.take(path) is None
    first.close()
    assert not locks.held(path)
    with locks.waiting(path):
        assert locks.held(path)
    assert not file_of(path).exists()
    assert {p.name for p in tmp_path.iterdir()} == {"supervisor.lock"}


def test_a_holder_that_has_died_here_is_known_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    program = (
        "import os, sys; from pathlib import Path\n"
        "from storage.files.beating_locks import BeatingLock\n"
        "assert BeatingLock.take(Path(sys.argv[1])); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, check=True)
    assert file_of(path).exists() and not is_held(path)
    second = BeatingLock.take(path)
    assert second is not None
    second.close()


def test_a_holder_elsewhere_is_known_by_its_heartbeat(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    file_of(path).write_text("other-host boot pid:[1] 1")
    assert is_held(path) and BeatingLock.take(path) is None
    silent_for(path, beating_locks.SILENT_AFTER + 5)
    assert not is_held(path)
    taken = BeatingLock.take(path)
    assert taken is not None
    taken.close()


def test_the_holder_beats_and_leaves_what_another_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beating_locks, "BEAT_EVERY", 0.01)
    path = tmp_path / "a.lock"
    first = BeatingLock.take(path)
    assert first is not None
    silent_for(path, 100)
    while file_of(path).stat().st_mtime < file_of(path).stat().st_ctime - 50:
        pass
    file_of(path).write_text("other-host boot pid:[1] 1")
    first.close()
    assert is_held(path)


def test_a_crash_while_a_stale_one_was_removed_does_not_close_the_way(tmp_path: Path) -> None:
    passage = file_of(tmp_path / "a.lock").with_suffix(".passage")
    passage.touch()
    assert BeatingLock.take(tmp_path / "a.lock") is None
    os.utime(passage, (1, 1))
    taken = BeatingLock.take(tmp_path / "a.lock")
    assert taken is not None
    taken.close()
