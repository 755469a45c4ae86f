"""The cost formula against counts made by hand and against torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from bench.causal_models.tiny import tiny_config
from opd.config.run import parse
from opd.models.cost import (
    ModelCost,
    causal_pairs,
    model_cost,
    sampling_flops,
    scoring_flops,
    training_passes,
)
from tests.opd.teachers.test_local import settings, steps
from tests.support import tiny_models


def test_hand_values():
    model = ModelCost(parameters=1000, layers=2, width=8)
    assert causal_pairs(0, 3) == 1 + 2 + 3
    assert causal_pairs(3, 5) == 4 + 5
    assert model.forward(3, 6) == 2 * 1000 * 3 + 4 * 2 * 8 * 6
    assert scoring_flops(model, [3]) == model.forward(3, 6)
    # A group's prompt is read once; the last token of a completion is never read.
    both = sampling_flops(model, [(3, [1, 2])])
    assert both == model.forward(3, 6) + model.forward(0, 0) + model.forward(1, 4)


def test_training_costs_as_many_passes_as_it_makes():
    adapter = {"model": "bundled/student", "lora": {}}
    assert training_passes(parse({})) == 3
    assert training_passes(parse({"student": adapter})) == 2
    assert training_passes(parse({"student": adapter | {"gradient_checkpointing": True}})) == 3
    assert training_passes(parse({"objective": {"name": "grpo", "reference_kl": 0.1}})) == 4


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_close_to_counted_operations(kind):
    """torch counts every matrix product; full attention it counts without the causal half."""
    model = AutoModelForCausalLM.from_config(tiny_models.config(kind, 310)).eval()
    model.set_attn_implementation("eager")
    n = 40
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(1, n, dtype=torch.long))
    cost = model_cost(model)
    assert cost.forward(n, n * n) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_step_says_what_its_teacher_sampled(tmp_path):
    for seed, name in enumerate(("student", "teacher")):
        tiny_models.save_model(tmp_path / name, seed=seed, scale=3.0)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two words"}\n' * 4)
    records = {"records": {"rollouts_per_step": 99}}
    (taught, *_) = steps(settings(tmp_path, objective="sft", **records), tmp_path / "a")
    (first, *_) = steps(settings(tmp_path, **records), tmp_path / "b")
    groups: dict[int, tuple[int, list[int]]] = {}
    for r in taught.rollouts:
        groups.setdefault(r.group, (len(r.prompt_ids), []))[1].append(len(r.record))
    teacher = model_cost(AutoModelForCausalLM.from_pretrained(tmp_path / "teacher"))
    expected = sampling_flops(teacher, groups.values())
    assert taught.metrics["teacher_sampling_flops"] == pytest.approx(expected)
    assert 0 < expected < taught.flops
    assert "teacher_sampling_flops" not in first.metrics


def test_a_token_meets_only_the_experts_that_it_is_routed_to() -> None:
    """2 of 4 experts of 3 · 32 · 16 each, beside attention, router and head, counted by hand."""
    model = AutoModelForCausalLM.from_config(tiny_config("qwen3_moe"))
    layer = 2 * 32 * 32 + 2 * 32 * 16  # queries and output, keys and values
    router, expert = 4 * 32, 3 * 32 * 16
    assert model_cost(model).parameters == 2 * (layer + router + 2 * expert) + 320 * 32


@pytest.mark.parametrize("model_type", ["mamba", "rwkv", "openai-gpt", "bloom", "nemotron_h"])
def test_every_kind_has_a_cost(model_type: str) -> None:
    cost = model_cost(AutoModelForCausalLM.from_config(tiny_config(model_type)))
    assert cost.forward(10, causal_pairs(0, 10)) > 2 * 10 * 320 * 32
