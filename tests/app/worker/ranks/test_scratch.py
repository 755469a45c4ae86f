"""What is left behind by processes that were killed, and what is not taken for it."""

import subprocess
import sys
import tempfile

import pytest

from app.worker.ranks.scratch import Scratch, remove_abandoned, sweep

HOLDING = """
from app.worker.ranks.scratch import Scratch
held = Scratch()
print(held.store, flush=True)
input()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_goes_when_it_is_closed(folder):
    made = Scratch()
    assert made.store.parent.stat().st_mode & 0o777 == 0o700
    made.close()
    assert list(folder.iterdir()) == []


def test_only_what_a_killed_process_has_left_is_swept(folder):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    theirs, _, _ = child.stdout.readline().rpartition("/")
    mine, other = Scratch(), folder / "opd-ranks-of-another-kind"
    other.mkdir()
    foreign = folder / "foreign"
    foreign.mkdir()
    (foreign / "lock").touch()
    sweep()
    remove_abandoned(foreign)
    assert len(list(folder.iterdir())) == 4
    child.kill()
    child.communicate()
    sweep()
    assert sorted(folder.iterdir()) == sorted([mine.store.parent, other, foreign])
    assert theirs.startswith(str(folder / "opd-ranks-"))
    mine.close()
