"""Which device a process that trains along has; whole runs are in `tests/flows`."""

from datetime import datetime
from pathlib import Path

from app.worker.ranks import follower
from app.worker.ranks.follower import follow_torchrun, slot_on
from app.worker.ranks.order import Order, TorchrunPlace
from opd.types import EarlierAttempts


def order(*slots):
    return Order({}, Path("/c"), None, datetime.now(), EarlierAttempts(), slots)


def test_the_devices_are_those_that_the_run_has():
    torchrun = TorchrunPlace(rank=1, size=2, local_rank=1, local_size=2)
    assert slot_on(torchrun, order("cuda:1", "cuda:3")) == "cuda:3"
    assert slot_on(torchrun, order("cpu", "cpu")) == "cpu"


def test_one_on_another_machine_says_so(monkeypatch, caplog):
    monkeypatch.setattr(follower, "start_log", lambda: None)
    assert follow_torchrun(TorchrunPlace(rank=3, size=4, local_rank=1, local_size=2)) == 1
    assert "torchrun has started 4 processes, 2 of them on this machine" in caplog.text
