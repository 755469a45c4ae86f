"""The scenes that take no server, on real mounts, with a training that has no models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.places import file_systems

ROOT = Path(__file__).parents[3]
FAKE = f"{sys.executable} {ROOT}/tests/support/fake_training.py cli"
SCENES = ("log_without_index", "dangling_link", "no_record_locks")


def test_what_cannot_be_done_is_said_and_nothing_is_lost() -> None:
    command = [sys.executable, "-m", "bench.places.file_systems", "--opd", FAKE, *SCENES]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    if "not allowed" in done.stdout:
        pytest.skip(done.stdout)
    assert len(lines) == 3 and all(ln.startswith(("right: ", "not tried: ")) for ln in lines)
    assert "right: log_without_index" in lines


def test_a_scene_that_goes_wrong_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def archive(_ground: object) -> None:
        raise AssertionError("it was not read")

    monkeypatch.setenv(file_systems.INSIDE, "1")
    monkeypatch.setattr(file_systems, "SCENES", (archive,))
    monkeypatch.setattr(sys, "argv", ["bench"])
    assert file_systems.main() == 1
    assert capsys.readouterr().out == "WRONG: archive: it was not read\n"
