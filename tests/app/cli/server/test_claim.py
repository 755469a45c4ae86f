"""One server a data directory; its note is its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.server.claim import noted, served_alone
from opd.errors import UserError
from storage.data_dir import DataDir
from tests.support.fake_training import ROOT


def test_a_second_server_of_a_directory_is_refused_before_its_link(
    tmp_path: Path, opd: Callable[..., tuple[int, str, str]]
) -> None:
    data_dir = DataDir(tmp_path / "data")
    data_dir.path.mkdir()
    note = {"port": 7860, "pid": os.getpid(), "address": "http://127.0.0.1:7860/"}
    with served_alone(data_dir), noted(data_dir, note):
        for command in ("serve", "demo"):
            code, out, err = opd(command, "--port", "0")
            assert (code, out, err.count("\n")) == (2, "", 1)
            assert f"--data-dir {data_dir}: is served already by process {os.getpid()} at" in err
            assert "http://127.0.0.1:7860/: open that" in err
        assert json.loads(data_dir.server_note.read_text()) == note
    assert not data_dir.server_note.exists()
    with served_alone(data_dir):
        pass


def test_a_note_of_another_server_stays(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    mine, other = ({"port": 1, "pid": pid, "address": "http://x/"} for pid in (1, 2))
    with noted(data_dir, mine):
        data_dir.server_note.write_text(json.dumps(other))
    assert json.loads(data_dir.server_note.read_text()) == other


def test_a_server_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from app.cli.server.claim import served_alone\n"
        "from storage.data_dir import DataDir\n"
        "with served_alone(DataDir(Path(sys.argv[1]))): os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, check=False)
    assert killed.returncode == -9
    with served_alone(DataDir(tmp_path)):
        pass


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    data_dir = DataDir(tmp_path)
    data_dir.server_lock.mkdir()
    refused = pytest.raises(UserError, match=r"cannot be written .* as a server must")
    with refused, served_alone(data_dir):
        pass
