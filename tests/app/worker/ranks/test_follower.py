"""Which device a process that trains along has; whole runs are in `tests/flows`."""

from datetime import datetime
from pathlib import Path

from app.worker.ranks.follower import slot_on
from app.worker.ranks.order import Order, TorchrunPlace
from opd.types import EarlierAttempts


def order(*slots):
    return Order({}, Path("/c"), None, datetime.now(), EarlierAttempts(), slots)


def test_on_the_first_machine_the_devices_are_those_that_the_run_has():
    place = TorchrunPlace(rank=1, size=2, local_rank=1, local_size=2, node=0)
    assert slot_on(place, order("cuda:1", "cuda:3")) == "cuda:3"
    assert slot_on(place, order("cpu", "cpu")) == "cpu"


def test_on_another_machine_they_are_counted_from_the_first():
    place = TorchrunPlace(rank=3, size=4, local_rank=1, local_size=2, node=1)
    assert slot_on(place, order("cuda:2", "cuda:3")) == "cuda:1"
    assert slot_on(place, order("cpu", "cpu")) == "cpu"
