"""What the first process of a run tells the others."""

from datetime import datetime
from pathlib import Path

import pytest

from app.worker.ranks.order import (
    Order,
    TorchrunPlace,
    as_torchrun_started,
    process_slots,
    wait_for_key,
)
from opd.config.run import parse
from opd.errors import UserError
from opd.types import EarlierAttempts, Score

ORDER = Order(
    {"steps": 3},
    Path("/data/checkpoints"),
    Path("/data/checkpoints/step-000001"),
    datetime(2026, 11, 27, 9, 30, 1, 250),
    EarlierAttempts(2.5, {0: [Score("heldout", "pass@1", 0.5, 20, 0.1)]}),
    ["cuda:0", "cuda:3"],
)


def torchrun(monkeypatch, rank=0, size=2, local=None):
    values = {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": local or size,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_an_order_arrives_as_it_was_given():
    assert Order.parse(ORDER.text()) == ORDER
    first = Order({}, Path("/c"), None, ORDER.moment, EarlierAttempts(), ["cpu"])
    assert Order.parse(first.text()) == first


def test_torchruns_place(monkeypatch):
    assert TorchrunPlace.here() is None
    torchrun(monkeypatch, rank=1, size=4, local=2)
    assert TorchrunPlace.here() == TorchrunPlace(1, 4, 1, 2)


def test_processes_share_a_processor_and_have_a_gpu_each():
    two = parse({"devices": 2})
    assert process_slots(two, "cpu") == ["cpu", "cpu"]
    assert process_slots(two, "cuda:1,cuda:2") == ["cuda:1", "cuda:2"]
    with pytest.raises(UserError, match=r"devices: 2 asked for, but there is 1 CUDA device here"):
        process_slots(two, "cuda:0")


def test_torchrun_and_the_configuration_agree(monkeypatch):
    one, two, three = (parse({"devices": n}) for n in (1, 2, 3))
    assert as_torchrun_started(three) is three
    torchrun(monkeypatch)
    assert as_torchrun_started(one).devices == 2
    assert as_torchrun_started(two).devices == 2
    with pytest.raises(UserError, match="is 3, and torchrun has started 2 processes"):
        as_torchrun_started(three)
    torchrun(monkeypatch, size=1)
    assert as_torchrun_started(one).devices == 1
    with pytest.raises(UserError, match=r"is 2, and torchrun has started 1 process:"):
        as_torchrun_started(two)


def test_processes_on_several_machines_are_refused(monkeypatch):
    torchrun(monkeypatch, size=4, local=2)
    with pytest.raises(UserError, match=r"devices: torchrun has started 4 processes, 2 of them on"):
        as_torchrun_started(parse({"devices": 4}))


def test_waiting_for_a_key_ends_when_asked_to_and_with_what_speaks_against_it():
    class Store:
        looks = 0

        def check(self, keys):
            self.looks += 1
            return keys == ["there"] and self.looks > 1

    assert wait_for_key(Store(), "there", lambda: None)
    assert not wait_for_key(Store(), "absent", lambda: None, stop=lambda: True)

    def gone():
        raise UserError("it is gone")

    with pytest.raises(UserError, match="it is gone"):
        wait_for_key(Store(), "absent", gone)
