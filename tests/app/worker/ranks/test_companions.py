"""The other processes of a run, as its first one starts and ends them."""

import signal
import subprocess
import sys
from datetime import datetime

import pytest

from app.worker.ranks import companions
from app.worker.ranks.companions import Companions
from app.worker.ranks.order import Order
from app.worker.ranks.scratch import Scratch
from opd.errors import UserError
from opd.ranks.group import ALONE, LostProcessError
from opd.types import EarlierAttempts
from storage.data_dir import RunDir


def order(tmp_path, devices):
    config = {"devices": devices}
    return Order(config, tmp_path, None, datetime.now(), EarlierAttempts(), ["cpu"] * devices)


def never():
    return False


@pytest.fixture
def follower(monkeypatch):
    def with_code(code):
        monkeypatch.setattr(companions, "FOLLOWER", (sys.executable, "-c", code))

    return with_code


def test_a_run_of_one_process_starts_none(tmp_path, follower):
    follower("raise SystemExit('not called')")
    with Companions(RunDir(tmp_path)) as here:
        assert here.gather(order(tmp_path, 1), "cpu", never) is ALONE
    assert not list(tmp_path.iterdir())


def test_another_app_where_the_run_was_started_is_not_taken_for_ours(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('another app')")
    command = [*companions.FOLLOWER, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "--store" in done.stdout) == (0, True), done.stderr


def test_a_process_that_cannot_start_ends_the_run_with_what_it_said(tmp_path, follower):
    follower("import sys; sys.exit('no module named torch')")
    said = r"devices: process 2 of 2 ended with exit code 1 \(no module named torch\)"
    with Companions(RunDir(tmp_path)) as here, pytest.raises(UserError, match=said):
        here.gather(order(tmp_path, 2), "cpu", never)


def test_a_stop_while_they_start_leaves_none_behind(tmp_path, follower, monkeypatch):
    monkeypatch.setattr(companions, "PATIENCE", 60)
    follower("import time; time.sleep(30)")
    with Companions(RunDir(tmp_path)) as here:
        assert here.gather(order(tmp_path, 3), "cpu", lambda: True) is ALONE
        children = list(here._children.values())
    assert [child.poll() for child in children] == [-signal.SIGKILL] * 2  # not waited for


def test_a_lost_connection_is_explained_by_the_process_that_ends_a_moment_later(tmp_path, follower):
    follower("import time; time.sleep(0.5); raise SystemExit('killed by the test')")
    with Companions(RunDir(tmp_path)) as here:
        here._scratch = Scratch()
        here._children[1] = here._start(1, 2)
        explained = here.explained(LostProcessError("connection closed"))
        other = here.explained(UserError("too large", where="sampling"))
    assert "process 2 of 2 ended with exit code 1 (killed by the test)" in str(explained)
    assert "connection closed" in str(explained)
    assert other.where == "sampling"
