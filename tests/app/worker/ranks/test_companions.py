"""The other processes of a run, as its first one starts and ends them."""

import subprocess
import sys
import time
from datetime import datetime

import pytest

from app.worker.ranks import companions
from app.worker.ranks.companions import Companions
from app.worker.ranks.order import Order
from opd.errors import UserError
from opd.ranks.group import ALONE
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


def test_a_stop_while_they_start_leaves_none_behind(tmp_path, follower):
    follower("import time; time.sleep(60)")
    with Companions(RunDir(tmp_path)) as here:
        assert here.gather(order(tmp_path, 3), "cpu", lambda: True) is ALONE
        children = list(here._children.values())
        began = time.monotonic()
    assert len(children) == 2
    assert all(child.poll() is not None for child in children)
    assert time.monotonic() - began < companions.PATIENCE
