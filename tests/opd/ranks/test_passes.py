"""Passes in step: of processes that have different rows, none, or that fail within one."""

from functools import partial

import pytest
import torch

from opd.errors import UserError
from opd.ranks.group import ALONE
from opd.training.trainer import Training
from tests.support import tiny_models
from tests.support.devices.rank_processes import on_ranks
from tests.support.devices.shared_runs import assert_alike, settings, sharded, trained


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_models.save_pair(tmp_path_factory.mktemp("shards"))


def test_processes_without_rows_take_part(inputs, tmp_path):
    """One row of three processes, which are more than a weight has rows to cut evenly."""
    config = settings(
        inputs,
        steps=2,
        sampling={"prompts_per_step": 1, "group_size": 1, "max_new_tokens": 8},
        student={"gradient_checkpointing": True},
    )
    one = trained(ALONE, config=config, folder=tmp_path / "one")
    work = partial(trained, config=sharded(config), folder=tmp_path / "cut")
    first, *_ = on_ranks(3, work, tmp_path / "r")
    assert not isinstance(first, Exception), (tmp_path / "r" / "log").read_text()
    assert_alike(one, first)


def failing_within_a_pass(ranks, *, config, folder, who):
    """A process's memory runs out where the other one waits for it; nothing can be saved then."""

    class Failing(Training):
        def _load(self):
            loaded = super()._load()
            if ranks.rank == who:
                layer = loaded.pair.student.get_decoder().layers[-1].mlp

                def fail(*_):
                    raise torch.OutOfMemoryError("out of memory")

                layer.register_forward_pre_hook(fail)
            return loaded

    training = Failing(config, folder, ranks=ranks)
    try:
        return list(training.events())
    except UserError as error:
        if ranks.leads:
            with pytest.raises(UserError, match="another process of this run"):
                training.save_checkpoint()
        return str(error)


@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_fails_within_a_pass_leaves_nobody_waiting(inputs, tmp_path, who):
    config = sharded(settings(inputs, steps=2))
    work = partial(failing_within_a_pass, config=config, folder=tmp_path / "cut", who=who)
    answers = on_ranks(2, work, tmp_path / "r")
    assert "out of memory" in answers[who].lower()
    assert "another process of this run has ended" in answers[1 - who]
