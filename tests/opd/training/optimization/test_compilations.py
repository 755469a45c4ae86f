"""When a run's update is compiled: as it is set, or on a GPU by the work that there is."""

from dataclasses import replace

import pytest
import torch

from opd.config.run import parse
from opd.training.loading import Callbacks, load
from opd.training.optimization import compilations
from opd.training.optimization.compilations import all_flops, compilation_of
from tests.support import tiny_models


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    root = tmp_path_factory.mktemp("compilations")
    tiny_models.save_model(root / "student", seed=0)
    tiny_models.save_model(root / "teacher", seed=1)
    (root / "prompts.jsonl").write_text('{"prompt": "x", "answer": "3"}\n' * 8)
    config = parse(
        {
            "student": str(root / "student"),
            "teacher": str(root / "teacher"),
            "prompts": str(root / "prompts.jsonl"),
            "steps": 5,
            "device": "cpu",
            "sampling": {"prompts_per_step": 2, "group_size": 3, "max_new_tokens": 7},
        }
    )
    run = load(config, None, Callbacks())
    yield run
    run.close()


def changed(loaded, **optimizer):
    config = loaded.router.config
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update=optimizer)})


def made(loaded, config, device="cuda"):
    pair = replace(loaded.pair, device=torch.device(device))
    return compilation_of(config, pair, loaded.router, lambda _: None)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_set_is_done(loaded, compiled, device):
    assert (made(loaded, changed(loaded, compile=compiled), device) is not None) == compiled


def test_left_open_it_is_for_long_runs_on_a_gpu(loaded, monkeypatch):
    config = changed(loaded, compile=None)
    needed = all_flops(config, loaded.pair, loaded.router)
    assert made(loaded, config) is None
    monkeypatch.setattr(compilations, "WORTH", 2 * needed)
    assert made(loaded, config) is None
    longer = config.model_copy(update={"steps": 11})
    assert made(loaded, longer) is not None
    assert made(loaded, longer, "cpu") is None


def test_the_work_is_that_of_both_models_for_all_tokens(loaded):
    """3 passes of the student and one of the teacher, 2 FLOPs a weight and token and more for
    attention."""
    config = changed(loaded)
    weights = [
        sum(p.numel() for p in model.parameters() if p.ndim > 1)
        for model in (loaded.pair.student, loaded.pair.teacher)
    ]
    tokens = 5 * 2 * 3 * 7
    least = 2 * tokens * (3 * weights[0] + weights[1])
    assert least <= all_flops(config, loaded.pair, loaded.router) <= 1.2 * least
    alone = replace(loaded.router, teachers={})
    assert all_flops(config, loaded.pair, alone) <= 1.2 * 2 * tokens * 3 * weights[0]


def test_of_given_completions_a_prompt_has_one(loaded):
    config = changed(loaded)
    given = config.model_copy(
        update={"sampling": config.sampling.model_copy(update={"source": "given"})}
    )
    work = all_flops(config, loaded.pair, loaded.router)
    assert all_flops(given, loaded.pair, loaded.router) == pytest.approx(work / 3)
