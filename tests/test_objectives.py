"""What is trained: signs, gradients, masks, reductions."""

import pytest
import torch

from opd import divergences as d
from opd.config import ObjectiveConfig
from opd.objectives import LossInputs, reduce, token_losses


def inputs(n=4, vocab=6, seed=0, mask=None):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocab, dtype=torch.float64, generator=g).requires_grad_()
    student = torch.log_softmax(logits, -1)
    teacher = torch.log_softmax(torch.randn(n, vocab, dtype=torch.float64, generator=g), -1)
    targets = torch.randint(vocab, (n,), generator=g)
    mask = torch.ones(n, dtype=torch.float64) if mask is None else mask
    return logits, LossInputs(student, teacher, targets, d.at(student, targets).detach(), mask)


@pytest.mark.parametrize("name", ["reverse_kl", "policy_gradient"])
def test_teacher_equal_to_student_trains_nothing(name):
    logits, x = inputs()
    x = LossInputs(x.student, x.student.detach(), x.targets, x.sampler, x.mask)
    result = token_losses(x, ObjectiveConfig(name=name))
    result.loss.sum().backward()
    assert result.loss.abs().max() == 0
    assert logits.grad.abs().max() < 1e-15


def test_first_update_on_fresh_samples():
    """Every importance ratio is 1, and the summed loss is Σ d_t."""
    _, x = inputs()
    result = token_losses(x, ObjectiveConfig(name="policy_gradient", reduction="sum"))
    ratio = d.log_ratio(x.sampler, d.at(x.teacher, x.targets))
    torch.testing.assert_close(result.advantages, -ratio)
    torch.testing.assert_close(result.loss.sum(), ratio.sum())


def test_a_token_that_the_teacher_dislikes_is_made_less_likely():
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    student = torch.log_softmax(logits, -1)
    teacher = torch.tensor([[0.1, 0.9]], dtype=torch.float64).log()
    target = torch.tensor([0])
    x = LossInputs(student, teacher, target, d.at(student, target).detach(), torch.ones(1).double())
    result = token_losses(x, ObjectiveConfig(name="policy_gradient"))
    result.loss.sum().backward()
    assert result.advantages < 0
    assert logits.grad[0, 0] > 0  # descent lowers its logit


def test_expected_policy_gradient_is_the_exact_gradient():
    """Σ_x p(x) ∇loss(x) = ∇KL = p_v [(log p_v − log q_v) − KL]."""
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 6, dtype=torch.float64, generator=g).requires_grad_()
    teacher = torch.log_softmax(torch.randn(1, 6, dtype=torch.float64, generator=g), -1)
    total = torch.zeros_like(logits)
    for token in range(6):
        student = torch.log_softmax(logits, -1)
        target = torch.tensor([token])
        sampler = d.at(student, target).detach()
        x = LossInputs(student, teacher, target, sampler, torch.ones(1).double())
        loss = token_losses(x, ObjectiveConfig(name="policy_gradient")).loss.sum()
        total += sampler.exp() * torch.autograd.grad(loss, logits)[0]
    student = torch.log_softmax(logits, -1)
    kl = d.reverse_kl(student, teacher)
    (exact,) = torch.autograd.grad(kl.sum(), logits)
    closed_form = (student.exp() * ((student - teacher) - kl.unsqueeze(-1))).detach()
    torch.testing.assert_close(total, exact)
    torch.testing.assert_close(closed_form, exact)


def test_clip_takes_the_pessimistic_product():
    _, x = inputs()
    moved = LossInputs(x.student, x.teacher, x.targets, x.sampler - 1.0, x.mask)  # ratio e
    clipped = token_losses(moved, ObjectiveConfig(name="policy_gradient", clip=0.2))
    gain = torch.minimum(torch.e * clipped.advantages, 1.2 * clipped.advantages)
    torch.testing.assert_close(clipped.loss, -gain)


@pytest.mark.parametrize("name", ["reverse_kl", "policy_gradient"])
@pytest.mark.parametrize("poison", [float("nan"), float("-inf")])
def test_a_masked_token_adds_exactly_nothing(name, poison):
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    logits, x = inputs(mask=mask)
    clean = token_losses(x, ObjectiveConfig(name=name)).loss.sum()
    (expected,) = torch.autograd.grad(clean, logits)
    teacher, sampler = x.teacher.clone(), x.sampler.clone()
    teacher[1], sampler[1] = poison, poison
    logits, x = inputs(mask=mask)
    x = LossInputs(x.student, teacher, x.targets, sampler, mask)
    result = token_losses(x, ObjectiveConfig(name=name))
    result.loss.sum().backward()
    assert result.loss[1] == 0
    assert logits.grad[1].abs().max() == 0
    torch.testing.assert_close(logits.grad, expected)


def test_micro_batches_add_up_to_the_whole():
    _, x = inputs(n=6)
    losses = token_losses(x, ObjectiveConfig()).loss
    for reduction in ("token_mean", "sum"):
        whole = reduce(losses, tokens=6, reduction=reduction)
        parts = [
            reduce(losses[s], tokens=6, reduction=reduction) for s in (slice(0, 1), slice(1, 6))
        ]
        torch.testing.assert_close(sum(parts), whole)
