"""What is trained: signs, gradients, masks, reductions, for every objective."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from opd.config.sections import ObjectiveConfig
from opd.loss import divergences as d
from opd.loss.objective import LossInputs
from opd.loss.objective_table import OBJECTIVES, TRAINABLE
from opd.loss.token_losses import row_scales, token_losses

CASES = json.loads((Path(__file__).parent / "divergences.json").read_text())["cases"]
DIVERGENCES = [n for n in TRAINABLE if OBJECTIVES[n].needs in ("vocabulary", "top_k")]
EVERY = TRAINABLE


def inputs(n=4, vocab=6, seed=0, mask=None):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocab, dtype=torch.float64, generator=g).requires_grad_()
    teacher = torch.log_softmax(torch.randn(n, vocab, dtype=torch.float64, generator=g), -1)
    targets = torch.randint(vocab, (n,), generator=g)
    mask = torch.ones(n, dtype=torch.float64) if mask is None else mask
    return logits, judged(logits, teacher, targets, mask)


def judged(logits, teacher, targets, mask):
    student = torch.log_softmax(logits, -1)
    n = len(targets)
    return LossInputs(
        student=student,
        targets=targets,
        sampler=d.at(student, targets).detach(),
        mask=mask,
        teacher=teacher,
        teacher_at=d.at(teacher, targets),
        reward_advantage=torch.linspace(-1, 1, n, dtype=torch.float64),
        reference_at=d.at(teacher, targets) - 0.3,
    )


def config(name, **more):
    return ObjectiveConfig(name=name, **more)


def test_the_table_and_the_configuration_name_the_same_objectives():
    assert ObjectiveConfig.model_fields["name"].annotation.__args__ == TRAINABLE


@pytest.mark.parametrize("name", [*DIVERGENCES, "policy_gradient"])
def test_teacher_equal_to_student_trains_nothing(name):
    logits, x = inputs()
    x = judged(logits, x.student.detach(), x.targets, x.mask)
    result = token_losses(x, config(name, top_k=3))
    result.loss.sum().backward()
    assert result.loss.abs().max() < 1e-15
    assert logits.grad.abs().max() < 1e-15


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("more", [{}, {"beta": 0.0}, {"beta": 1.0}, {"reference_kl": 0.5}])
def test_gradient_against_finite_differences(name, more):
    """Central differences in float64 of the very loss that is back-propagated."""
    logits, x = inputs(n=3, vocab=5)

    def loss(values):
        fresh = judged(values, x.teacher, x.targets, x.mask)
        fresh = replace(fresh, sampler=x.sampler)  # what was sampled does not move
        return token_losses(fresh, config(name, top_k=2, entropy_threshold=1.2, **more)).loss.sum()

    loss(logits).backward()
    numeric = torch.zeros_like(logits)
    for i in range(logits.numel()):
        step = torch.zeros(logits.numel(), dtype=torch.float64)
        step[i] = 1e-6
        up, down = (loss(logits.detach() + s * step.view_as(logits)) for s in (1, -1))
        numeric.view(-1)[i] = (up - down) / 2e-6
    torch.testing.assert_close(logits.grad, numeric, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_oracle(case):
    """The losses that 50-digit arithmetic has: both KLs, JSD, the student's top-k, k1, −log p."""
    t = case["temperature"]
    raw = torch.tensor([case["student_logits"]], dtype=torch.float64)
    teacher = d.log_probs(torch.tensor([case["teacher_logits"]], dtype=torch.float64), t)
    targets = torch.tensor([case["sampled_id"]])
    x = judged(raw / t, teacher, targets, torch.ones(1, dtype=torch.float64))

    def close(name, expected, **more):
        loss = float(token_losses(x, config(name, **more)).loss)
        assert loss == pytest.approx(expected, rel=1e-9, abs=1e-15)

    close("reverse_kl", case["reverse_kl"])
    close("forward_kl", case["forward_kl"])
    close("jsd", case["forward_kl"], beta=0.0)
    close("jsd", case["reverse_kl"], beta=1.0)
    for beta, value in case["jsd"].items():
        close("jsd", value, beta=float(beta))
    close("skewed_kl", case["reverse_kl"], skew=0.0)
    close("student_top_k", case["student_topk_reverse_kl_with_tail"], top_k=case["k"])
    close("teacher_top_k", case["reverse_kl"], top_k=len(case["student_logits"]))
    close("sft", -case["student_logprob"])
    close("policy_gradient", case["k1"])  # every importance ratio is 1
    sure = case["teacher_entropy"] < 0.8
    close("entropy_aware", case["reverse_kl" if sure else "forward_kl"])


def test_skewed_kl_hand_value_and_bound():
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).log()
    expected = 0.5 * np.log(0.5 / 0.95) + 0.5 * np.log(0.5 / 0.05)
    assert float(d.skewed_kl(p, q, 0.1)) == pytest.approx(expected, rel=1e-6)
    assert float(d.skewed_kl(p, q, 0.1)) <= -np.log(0.1)
    with pytest.raises(ValueError, match="alpha"):
        d.skewed_kl(p, q, 1.0)


def test_top_k_from_a_list_equals_top_k_from_the_whole():
    """A server's k likeliest tokens are enough for the bucketed KL."""
    _, x = inputs(n=5, vocab=9)
    top, ids = x.teacher.topk(4, dim=-1)
    listed = replace(x, teacher=None, teacher_ids=ids, teacher_top=top)
    for k in (2, 4):
        whole, part = (token_losses(y, config("teacher_top_k", top_k=k)).loss for y in (x, listed))
        torch.testing.assert_close(whole, part)
    with pytest.raises(ValueError, match="likeliest"):
        token_losses(replace(x, teacher=None), config("teacher_top_k"))
    with pytest.raises(ValueError, match="whole distribution"):
        token_losses(replace(x, teacher=None), config("reverse_kl"))


def test_first_update_on_fresh_samples():
    """Every importance ratio is 1, and the summed loss is Σ d_t."""
    _, x = inputs()
    result = token_losses(replace(x, reward_advantage=None), config("policy_gradient"))
    ratio = d.log_ratio(x.sampler, x.teacher_at)
    torch.testing.assert_close(result.advantages, -ratio)
    torch.testing.assert_close(result.loss.sum(), ratio.sum())


def test_a_token_that_the_teacher_dislikes_is_made_less_likely():
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.1, 0.9]], dtype=torch.float64).log()
    x = judged(logits, teacher, torch.tensor([0]), torch.ones(1).double())
    result = token_losses(replace(x, reward_advantage=None), config("policy_gradient"))
    result.loss.sum().backward()
    assert result.advantages < 0
    assert logits.grad[0, 0] > 0  # descent lowers its logit


@pytest.mark.parametrize("name", ["grpo", "policy_gradient"])
def test_a_completion_better_than_its_group_is_made_likelier(name):
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    x = judged(logits, teacher, torch.tensor([0]), torch.ones(1).double())
    x = replace(x, reward_advantage=torch.ones(1).double())
    result = token_losses(x, config(name, reward_weight=1.0 if name != "grpo" else 0.0))
    result.loss.sum().backward()
    assert float(result.advantages) == 1
    assert logits.grad[0, 0] < 0


def test_a_reward_adds_its_policy_gradient_to_a_divergence():
    logits, x = inputs()
    plain = token_losses(x, config("reverse_kl")).loss
    mixed = token_losses(x, config("reverse_kl", reward_weight=0.5))
    torch.testing.assert_close(mixed.loss, plain - 0.5 * x.reward_advantage)
    torch.testing.assert_close(mixed.advantages, 0.5 * x.reward_advantage)
    (both,) = torch.autograd.grad(mixed.loss.sum(), logits, retain_graph=True)
    (kl,) = torch.autograd.grad(plain.sum(), logits, retain_graph=True)
    score = d.at(x.student, x.targets)
    (pg,) = torch.autograd.grad((0.5 * x.reward_advantage * score).sum(), logits)
    torch.testing.assert_close(both, kl - pg)


def test_expected_policy_gradient_is_the_exact_gradient():
    """Σ_x p(x) ∇loss(x) = ∇KL = p_v [(log p_v − log q_v) − KL]."""
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 6, dtype=torch.float64, generator=g).requires_grad_()
    teacher = torch.log_softmax(torch.randn(1, 6, dtype=torch.float64, generator=g), -1)
    total = torch.zeros_like(logits)
    for token in range(6):
        x = judged(logits, teacher, torch.tensor([token]), torch.ones(1).double())
        x = replace(x, reward_advantage=None)
        loss = token_losses(x, config("policy_gradient")).loss.sum()
        total += x.sampler.exp() * torch.autograd.grad(loss, logits)[0]
    student = torch.log_softmax(logits, -1)
    kl = d.reverse_kl(student, teacher)
    (exact,) = torch.autograd.grad(kl.sum(), logits)
    closed_form = (student.exp() * ((student - teacher) - kl.unsqueeze(-1))).detach()
    torch.testing.assert_close(total, exact)
    torch.testing.assert_close(closed_form, exact)


def test_expected_policy_gradient_of_a_stale_sampler():
    """Σ_x p_sampled(x) ∇loss(x) = ∇KL(p‖q) − ∇KL(p‖p_sampled), as docs/method.md says."""
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 6, dtype=torch.float64, generator=g).requires_grad_()
    teacher, stale = (
        torch.log_softmax(torch.randn(1, 6, dtype=torch.float64, generator=g), -1) for _ in "qs"
    )
    total = torch.zeros_like(logits)
    for token in range(6):
        x = judged(logits, teacher, torch.tensor([token]), torch.ones(1).double())
        x = replace(x, reward_advantage=None, sampler=stale[:, token])
        loss = token_losses(x, config("policy_gradient")).loss.sum()
        total += stale[0, token].exp() * torch.autograd.grad(loss, logits)[0]
    student = torch.log_softmax(logits, -1)
    apart = d.reverse_kl(student, teacher) - d.reverse_kl(student, stale)
    torch.testing.assert_close(total, torch.autograd.grad(apart.sum(), logits)[0])


@pytest.mark.parametrize("name", ["policy_gradient", "grpo"])
def test_clip_takes_the_pessimistic_product(name):
    _, x = inputs()
    moved = replace(x, sampler=x.sampler - 1.0)  # ratio e
    clipped = token_losses(moved, config(name, clip=0.2))
    gain = torch.minimum(torch.e * clipped.advantages, 1.2 * clipped.advantages)
    torch.testing.assert_close(clipped.loss, -gain)


@pytest.mark.parametrize("name", ["policy_gradient", "grpo"])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_a_truncated_ratio_weighs_the_token_and_keeps_its_gradient(name, clip):
    """Against NumPy: loss −w A and gradient −w A (1[v = x] − p_v), w = min(p / p_sampled, 1.5)."""
    logits, x = inputs(n=8)
    moved = torch.tensor([-2, 2, -1, 1, 0.1, -0.1, 2, 0.3], dtype=torch.float64)
    stale = x.sampler - moved
    x = replace(x, sampler=stale)
    result = token_losses(x, config(name, ratio_cap=1.5, clip=clip, reward_weight=0.0))
    result.loss.sum().backward()

    p = np.exp(logits.detach().numpy())
    p /= p.sum(-1, keepdims=True)
    ids = x.targets.numpy()
    sampled = p[np.arange(8), ids]
    weight = np.minimum(sampled / np.exp(stale.numpy()), 1.5)
    assert (weight == 1.5).sum() >= 2 and (weight < 1.5).sum() >= 2
    advantage = result.advantages.numpy()
    gain, moves = weight * advantage, np.ones(8, bool)
    if clip is not None:
        limited = np.clip(sampled / np.exp(stale.numpy()), 0.8, 1.2) * advantage
        moves = gain <= limited
        gain = np.minimum(gain, limited)
        assert moves.any() and not moves.all()
    chosen = np.eye(6)[ids]
    gradient = -(weight * advantage * moves)[:, None] * (chosen - p)
    np.testing.assert_allclose(result.loss.detach().numpy(), -gain, rtol=1e-12)
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["policy_gradient", "grpo"])
def test_a_cap_that_no_ratio_reaches_changes_no_bit(name):
    losses = []
    for cap in (None, 3.0):
        logits, x = inputs(n=8)
        x = replace(x, sampler=x.sampler - torch.linspace(-1, 1, 8, dtype=torch.float64))
        loss = token_losses(x, config(name, ratio_cap=cap)).loss
        loss.sum().backward()
        losses.append((loss.detach(), logits.grad))
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))


def test_kl_clip_bounds_a_token_and_stops_its_gradient():
    logits, x = inputs(n=8, seed=4)
    free = token_losses(x, config("reverse_kl")).loss.detach()
    limit = float(free.detach().median())
    clipped = token_losses(x, config("reverse_kl", weighting={"kl_clip": limit}))
    torch.testing.assert_close(clipped.loss, free.clamp(max=limit))
    clipped.loss.sum().backward()
    over = free > limit
    assert over.any()
    assert not over.all()
    assert (logits.grad[over] == 0).all()
    assert (logits.grad[~over].abs().sum(-1) > 0).all()
    x = replace(x, reward_advantage=None)
    bounded = token_losses(x, config("policy_gradient", weighting={"kl_clip": 0.1})).advantages
    assert float(bounded.abs().max()) == pytest.approx(0.1)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("poison", [float("nan"), float("-inf")])
def test_a_masked_token_adds_exactly_nothing(name, poison):
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    settings = config(name, reference_kl=0.1 if name == "grpo" else 0.0)
    logits, x = inputs(mask=mask)
    (expected,) = torch.autograd.grad(token_losses(x, settings).loss.sum(), logits)
    logits, x = inputs(mask=mask)
    spoiled = {k: getattr(x, k).clone() for k in ("teacher", "teacher_at", "sampler")}
    spoiled |= {"reference_at": x.reference_at.clone()}
    for values in spoiled.values():
        values[1] = poison
    result = token_losses(replace(x, **spoiled), settings)
    result.loss.sum().backward()
    assert result.loss[1] == 0
    assert logits.grad[1].abs().max() == 0
    torch.testing.assert_close(logits.grad, expected)


def test_reductions_by_hand():
    assert row_scales([3, 1, 0], "sum") == [1, 1, 1]
    assert row_scales([3, 1, 0], "token_mean") == [0.25, 0.25, 0.25]
    assert row_scales([4, 1, 0], "sequence_mean") == [1 / 8, 1 / 2, 0]  # two rows count
