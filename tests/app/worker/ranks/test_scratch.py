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
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_folder_goes_when_it_is_closed(place):
    made = Scratch()
    assert made.store.parent.stat().st_mode & 0o777 == 0o700
    made.close()
    assert list(place.iterdir()) == []


def test_only_what_a_killed_process_has_left_is_swept(place):
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    theirs, _, _ = child.stdout.readline().rpartition("/")
    mine, other = Scratch(), place / "opd-ranks-of-another-kind"
    other.mkdir()
    foreign = place / "foreign"
    foreign.mkdir()
    (foreign / "lock").touch()
    sweep()
    remove_abandoned(foreign)
    assert len(list(place.iterdir())) == 4
    child.kill()
    child.communicate()
    sweep()
    assert sorted(place.iterdir()) == sorted([mine.store.parent, other, foreign])
    assert theirs.startswith(str(place / "opd-ranks-"))
    mine.close()
