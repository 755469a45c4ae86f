"""bfloat16 weights move where rounding to the nearest stalls, and the same way when resumed."""

import copy

import pytest
import torch

from opd.training.optimization import stochastic_adamw
from opd.training.optimization.stochastic_adamw import StochasticAdamW, rounded

OPTIONS = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 0.0}


def steps(optimizer, parameter, count, gradient=1.0):
    for _ in range(count):
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    return parameter.detach().clone()


def test_rounding_is_to_a_neighbour_and_right_on_average():
    random = torch.Generator().manual_seed(0)
    for value in (1.001, -3.3, 1e-30, 0.0, 300.5):
        values = rounded(torch.full((100_000,), value), random).double()
        spacing = 2 ** (torch.tensor(abs(value)).log2().floor() - 7) if value else torch.tensor(0.0)
        assert len(values.unique()) <= 2
        assert (values - value).abs().max() <= spacing
        assert float(values.mean()) == pytest.approx(value, abs=float(spacing) / 100)
    exact = torch.tensor([1.0, -2.5, float("inf")])
    assert torch.equal(rounded(exact, random).float(), exact)


def test_weights_learn_where_the_nearest_number_is_always_the_old_one():
    """200 steps of 1e-4 from 1, where neighbours lie 0.0039 apart."""
    stalled = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    steps(torch.optim.AdamW([stalled], **OPTIONS), stalled, 200)
    assert torch.equal(stalled, torch.ones_like(stalled))
    moved = torch.nn.Parameter(torch.ones(4096, dtype=torch.bfloat16))
    steps(StochasticAdamW([moved], seed=0, **OPTIONS), moved, 200)
    assert float(moved.detach().float().mean()) == pytest.approx(1 - 200 * 1e-4, abs=1e-3)


def test_moments_with_a_decay_near_one_move_too():
    """The second moment of a constant gradient of 1 is 1 − 0.999^n."""
    parameter = torch.nn.Parameter(torch.zeros(4096, dtype=torch.bfloat16))
    optimizer = StochasticAdamW([parameter], seed=0, **OPTIONS)
    steps(optimizer, parameter, 300)
    squares = optimizer.state[parameter]["exp_avg_sq"]
    assert squares.dtype == torch.bfloat16
    assert float(squares.float().mean()) == pytest.approx(1 - 0.999**300, rel=0.01)


def test_a_step_is_that_of_adamw_in_float32(monkeypatch):
    """Within one rounding, with weight decay, from the same moments; in slices, too."""
    monkeypatch.setattr(stochastic_adamw, "SLICE", 100)
    torch.manual_seed(0)
    options = {"lr": 0.05, "betas": (0.9, 0.95), "weight_decay": 0.1}
    start, gradient = (torch.randn(37, 11).bfloat16() for _ in range(2))
    exact = torch.nn.Parameter(start.float())
    exact.grad = gradient.float()
    torch.optim.AdamW([exact], **options).step()
    parameter = torch.nn.Parameter(start.clone())
    parameter.grad = gradient
    StochasticAdamW([parameter], seed=3, **options).step()
    torch.testing.assert_close(parameter.float(), exact, rtol=2**-7, atol=2**-16)


def test_bits_follow_from_seed_step_and_parameter_so_that_a_resumed_run_is_the_same():
    def fresh(seed=0):
        parameter = torch.nn.Parameter(torch.ones(512, dtype=torch.bfloat16))
        return parameter, StochasticAdamW([parameter], seed=seed, **OPTIONS)

    parameter, optimizer = fresh()
    steps(optimizer, parameter, 3)
    again, resumed = fresh()
    with torch.no_grad():
        again.copy_(parameter)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    torch.rand(7)  # other random numbers in between change nothing
    whole, rest = steps(optimizer, parameter, 4), steps(resumed, again, 4)
    assert torch.equal(whole, rest)
    other, another = fresh(seed=1)
    assert not torch.equal(steps(another, other, 7), whole)
    two = [torch.nn.Parameter(torch.ones(512, dtype=torch.bfloat16)) for _ in range(2)]
    both = StochasticAdamW(two, seed=0, **OPTIONS)
    for one in two:
        one.grad = torch.ones_like(one)
    both.step()
    assert not torch.equal(*two)
