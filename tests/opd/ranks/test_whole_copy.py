"""The whole copy that is sampled from; with it, runs are tried in `test_sharding.py`."""

from functools import partial

import pytest

from opd.ranks.group import ALONE
from opd.ranks.whole_copy import WholeCopy
from tests.support import tiny_models
from tests.support.devices.rank_processes import on_ranks
from tests.support.devices.shared_runs import assert_alike, settings, sharded, trained


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_models.save_pair(tmp_path_factory.mktemp("shards"))


def without_copy(ranks, **arguments):
    """As where a whole copy of the student has no room."""
    WholeCopy._has_room = lambda self: self._refuse(0)
    return trained(ranks, **arguments)


def test_without_room_for_a_copy_the_layers_write_in_step(inputs, tmp_path):
    config = settings(inputs, steps=2)
    one = trained(ALONE, config=config, folder=tmp_path / "one")
    work = partial(without_copy, config=sharded(config), folder=tmp_path / "cut")
    first, _ = on_ranks(2, work, tmp_path / "r")
    assert not isinstance(first, Exception), (tmp_path / "r" / "log").read_text()
    assert_alike(one, first)
