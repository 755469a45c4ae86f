"""Every per-token quantity against 50-digit arithmetic, hand values and identities."""

import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch

from opd.loss import divergences as d

CASES = json.loads((Path(__file__).parent / "divergences.json").read_text())["cases"]


def pair(case, *, grad=False):
    """Student and teacher log-probabilities (1, V) in float64, and the raw student logits."""
    logits = torch.tensor([case["student_logits"]], dtype=torch.float64, requires_grad=grad)
    teacher = torch.tensor([case["teacher_logits"]], dtype=torch.float64)
    t = case["temperature"]
    return d.log_probs(logits, t), d.log_probs(teacher, t), logits


def close(value, expected):
    assert float(value) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_oracle(case):
    p, q, _ = pair(case)
    x = torch.tensor([case["sampled_id"]])
    ratio = d.log_ratio(d.at(p, x), d.at(q, x))
    close(d.at(p, x), case["student_logprob"])
    close(d.at(q, x), case["teacher_logprob"])
    close(ratio, case["k1"])
    close(d.k3(ratio), case["k3"])
    close(d.reverse_kl(p, q), case["reverse_kl"])
    close(d.forward_kl(p, q), case["forward_kl"])
    for beta, value in case["jsd"].items():
        close(d.jsd(p, q, float(beta)), value)
    ids = p.topk(case["k"]).indices
    close(d.top_k_reverse_kl(p, q, ids), case["student_topk_reverse_kl_with_tail"])
    close(d.entropy(p), case["student_entropy"])
    close(d.entropy(q), case["teacher_entropy"])
    assert int(d.rank(q, x)) == case["teacher_rank_of_sampled"]


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_oracle_gradient(case):
    p, q, logits = pair(case, grad=True)
    d.reverse_kl(p, q).sum().backward()
    expected = torch.tensor([case["grad_reverse_kl_wrt_student_logits"]], dtype=torch.float64)
    # p (log p − log q − KL) cancels: float64 leaves a few 1e-16 of the terms, which reach 30 nats.
    torch.testing.assert_close(logits.grad, expected, rtol=1e-9, atol=1e-14)


def random_pair(vocab=7, seed=0, n=5):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(n, vocab, dtype=torch.float64, generator=generator) * 2  # noqa: E731
    return torch.log_softmax(draw(), -1), torch.log_softmax(draw(), -1)


def test_expectations_of_k1_and_k3_are_the_reverse_kl():
    p, q = random_pair()
    ratio = p - q
    torch.testing.assert_close((p.exp() * ratio).sum(-1), d.reverse_kl(p, q))
    torch.testing.assert_close((p.exp() * d.k3(ratio)).sum(-1), d.reverse_kl(p, q))


def test_hand_value():
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    assert float(d.reverse_kl(p, q)) == pytest.approx(
        0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), rel=1e-6
    )


def test_chain_rule_over_all_sequences():
    """E[Σ d_t] over every sequence equals the KL of the sequence distributions."""
    length, vocab = 4, 3
    generator = torch.Generator().manual_seed(1)
    tables = {
        prefix: [
            torch.log_softmax(torch.randn(vocab, generator=generator).double(), 0) for _ in range(2)
        ]
        for n in range(length)
        for prefix in product(range(vocab), repeat=n)
    }
    whole = tokenwise = 0.0
    for sequence in product(range(vocab), repeat=length):
        steps = [tables[sequence[:t]] for t in range(length)]
        logp = sum(float(s[0][x]) for s, x in zip(steps, sequence, strict=True))
        logq = sum(float(s[1][x]) for s, x in zip(steps, sequence, strict=True))
        whole += math.exp(logp) * (logp - logq)
        exact = sum(float(d.reverse_kl(s[0][None], s[1][None])) for s in steps)
        tokenwise += math.exp(logp) * exact
    assert tokenwise == pytest.approx(whole, rel=1e-12)


def test_top_k_grows_to_the_exact_value():
    p, q = random_pair(vocab=9)
    full = d.reverse_kl(p, q)
    previous = torch.zeros_like(full)
    for k in range(1, 10):
        value = d.top_k_reverse_kl(p, q, p.topk(k).indices)
        assert (value >= previous - 1e-12).all()
        assert (value <= full + 1e-12).all()
        previous = value
    torch.testing.assert_close(previous, full)


def test_top_k_without_tail_would_be_negative():
    p = torch.tensor([[0.1, 0.1, 0.8]], dtype=torch.float64).log()
    q = torch.tensor([[0.45, 0.45, 0.1]], dtype=torch.float64).log()
    ids = torch.tensor([[0, 1]])
    naive = (p.gather(-1, ids).exp() * (p - q).gather(-1, ids)).sum()
    assert naive < 0 < d.top_k_reverse_kl(p, q, ids)


def test_jsd_is_symmetric_and_bounded():
    p, q = random_pair()
    torch.testing.assert_close(d.jsd(p, q, 0.5), d.jsd(q, p, 0.5))
    assert (d.jsd(p, q, 0.5) <= math.log(2)).all()
    assert (d.jsd(p, q, 1e-6) < 1e-4).all()  # the limit is 0, not the forward KL
    with pytest.raises(ValueError, match="beta"):
        d.jsd(p, q, 1.0)


def test_impossible_ids_add_nothing_and_leave_the_gradient_finite():
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    p, q = torch.log_softmax(logits, -1), torch.tensor([[0.3, 0.7, 0.0]]).log()
    value = d.reverse_kl(p, q).sum()
    value.backward()
    assert value.isfinite()
    assert logits.grad[0, :2].isfinite().all()


def test_back_propagating_the_estimators_trains_something_else():
    """k1 has zero expected gradient and k3 the forward KL's: the reason that neither is a loss."""
    logits = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    q = torch.log_softmax(torch.randn(1, 6, dtype=torch.float64), -1)

    def expected_gradient(estimator):
        total = torch.zeros_like(logits)
        for x in range(6):
            p = torch.log_softmax(logits, -1)
            (g,) = torch.autograd.grad(estimator(p[0, x] - q[0, x]), logits)
            total += p[0, x].exp().detach() * g
        return total

    (forward,) = torch.autograd.grad(d.forward_kl(torch.log_softmax(logits, -1), q).sum(), logits)
    torch.testing.assert_close(
        expected_gradient(lambda r: r), torch.zeros_like(logits), atol=1e-12, rtol=0
    )
    torch.testing.assert_close(expected_gradient(d.k3), forward)
