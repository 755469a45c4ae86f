"""The scenes in real namespaces, with a training that has no models."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.places import namespaces

ROOT = Path(__file__).parents[3]
FAKE = f"{sys.executable} {ROOT}/tests/support/fake_training.py cli"


@pytest.mark.skipif(bool(namespaces.why_not()), reason="namespaces are not allowed here")
def test_nobody_touches_a_run_of_another_place() -> None:
    command = [sys.executable, "-m", "bench.places.namespaces", "--looks", "3", "--opd", FAKE]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("right: ") == 3 and "WRONG" not in done.stdout


def test_without_namespaces_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(namespaces, "container", lambda _name: ["/no/such/unshare"])
    monkeypatch.setattr(sys, "argv", ["namespaces"])
    assert namespaces.main() == 0
    assert "skipped, this machine does not allow them (" in capsys.readouterr().out
