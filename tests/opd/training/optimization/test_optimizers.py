"""Learning rates, the limit of the gradient, and which optimizer is made."""

import pytest
import torch

from opd.config.run import parse
from opd.errors import ConfigError
from opd.training.optimization.optimizers import (
    bytes_of_first_step,
    clip,
    learning_rate,
    make_optimizer,
)
from opd.training.optimization.stochastic_adamw import StochasticAdamW
from tests.support.devices.operator_counts import fake_cuda, on_fake_cuda

BFLOAT16 = {"dtype": "bfloat16", "weights": "bfloat16"}


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        ("none", [0.5, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1, 1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]),
    ],
)
def test_the_learning_rate_warms_up_and_falls(decay, rates):
    # 2 steps of warm-up, of which the last is at the full rate; the 4 others fall from it towards 0
    optimizer = {"learning_rate": 1, "warmup_steps": 2, "decay": decay}
    config = parse({"steps": 6, "optimizer": optimizer})
    assert [learning_rate(config, step) for step in range(1, 7)] == pytest.approx(rates)


def test_a_rate_that_falls_ends_above_0_even_where_all_is_warm_up():
    config = parse({"steps": 3, "optimizer": {"warmup_steps": 9, "decay": "linear"}})
    assert all(learning_rate(config, step) > 0 for step in range(1, 4))


def test_a_gpu_steps_in_one_fused_kernel(monkeypatch):
    layer = torch.nn.Linear(2, 2)
    assert not make_optimizer([*layer.parameters()], parse({})).param_groups[0]["fused"]
    with fake_cuda(monkeypatch):
        on_card = on_fake_cuda(torch.nn.Linear(2, 2))
        for parameter in on_card.parameters():
            parameter.requires_grad_()
        assert make_optimizer([*on_card.parameters()], parse({})).param_groups[0]["fused"]


def test_bfloat16_weights_take_their_own_optimizer_and_seed():
    layer = torch.nn.Linear(2, 2).bfloat16()
    optimizer = make_optimizer(
        [*layer.parameters()], parse({"student": BFLOAT16, "optimizer": {"beta2": 0.9}})
    )
    assert isinstance(optimizer, StochasticAdamW)
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.9)


@pytest.mark.parametrize(
    "changes", [{}, {"student": BFLOAT16}, {"optimizer": {"name": "adamw_8bit"}}]
)
def test_the_first_step_makes_as_many_bytes_as_said_and_the_second_none(changes):
    config = parse(changes)
    if config.optimizer.name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")
    layer = torch.nn.Linear(100, 70, dtype=getattr(torch, config.student.weights))
    optimizer = make_optimizer([*layer.parameters()], config)
    said = bytes_of_first_step(optimizer)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = [state for p in layer.parameters() for state in optimizer.state[p].items()]
    made = ("exp_avg", "exp_avg_sq", "state1", "state2", "absmax1", "absmax2")
    assert said == sum(tensor.nbytes for name, tensor in held if name in made)
    assert bytes_of_first_step(optimizer) == 0


def test_moments_that_are_put_back_are_held():
    layer = torch.nn.Linear(3, 2)
    layer.weight.grad = torch.ones_like(layer.weight)
    before, after = (make_optimizer([*layer.parameters()], parse({})) for _ in range(2))
    before.step()
    after.load_state_dict(before.state_dict())
    assert bytes_of_first_step(after) == 2 * layer.bias.nbytes  # which had no gradient


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_is_exact_and_then_at_most_the_limit(dtype):
    """Added in bfloat16, 100,000 squares of 1 come to 256."""
    parameters = [torch.zeros(50_000, dtype=dtype, requires_grad=True) for _ in range(2)]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    assert float(clip(parameters, 1.0)) == pytest.approx(100_000**0.5, rel=1e-5)
    left = sum(float(p.grad.double().square().sum()) for p in parameters) ** 0.5
    assert left == pytest.approx(1.0, rel=1e-2)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"student": BFLOAT16 | {"lora": {}}}, "an adapter is held in float32"),
        ({"student": {"weights": "bfloat16"}}, "set dtype, too"),
        ({"student": BFLOAT16, "optimizer": {"name": "adamw_8bit"}}, "take adamw"),
        ({"student": BFLOAT16, "teacher": {"kind": "ema"}}, "would not move"),
    ],
)
def test_what_does_not_go_with_bfloat16_weights_is_refused_at_their_field(changes, reason):
    with pytest.raises(ConfigError) as caught:
        parse(changes)
    (problem,) = caught.value.problems
    assert problem["field"] == "student.weights"
    assert reason in problem["message"]
