"""Every per-token quantity between student p and teacher q, in one place. All in nats.

Log-probabilities come in as (N, V), already divided by the temperature and normalised. Results are
(N,), differentiable in whatever carries a gradient. Source: method.md of the design; Schulman,
"Approximating KL divergence" for k1 and k3; Agarwal et al., arXiv 2306.13649 for JSD(β).
"""

import math
from typing import Any

import torch
from torch import Tensor


def log_probs(logits: Tensor, temperature: float) -> Tensor:
    """log softmax(logits / temperature), the raw distribution: no top-p, no penalties. (N, V)."""
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)


def at(logp: Tensor, ids: Tensor) -> Tensor:
    """The log-probability of one id a row: (N, V), (N,) → (N,)."""
    return logp.gather(-1, ids.unsqueeze(-1)).squeeze(-1)


def log_ratio(student: Tensor, teacher: Tensor) -> Tensor:
    """k1 = log p(x) − log q(x) at the sampled token; signed, unbiased for the reverse KL."""
    return student - teacher


def k3(ratio: Tensor) -> Tensor:
    """q/p − 1 − log q/p: unbiased for the reverse KL, never negative."""
    return torch.expm1(-ratio) + ratio


class _KL(torch.autograd.Function):
    """KL(a‖b) with the gradient of normalised a: a (log a − log b), without the term + a.

    Σ_v a ∇log a = ∇Σ_v a = 0, so the term adds nothing but rounding, which Adam would blow up to
    whole steps where both are equal; without it the gradient there is exactly 0, and one tensor
    the size of the vocabulary is kept instead of four.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        weights = a.exp()
        terms = (a - b).masked_fill_(a == -math.inf, 0.0).mul_(weights)
        ctx.save_for_backward(
            terms if ctx.needs_input_grad[0] else None, weights if ctx.needs_input_grad[1] else None
        )
        return terms.sum(-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        terms, weights = ctx.saved_tensors
        grad = grads[0].unsqueeze(-1)
        return (
            None if terms is None else grad * terms,
            None if weights is None else -grad * weights,
        )


def _kl(a: Tensor, b: Tensor) -> Tensor:
    """KL(a‖b) = Σ_v a (log a − log b); an id with a = 0 adds 0, also where b = 0."""
    divergence: Tensor = _KL.apply(a, b)  # type: ignore[no-untyped-call]
    return divergence


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p‖q) = Σ_v p (log p − log q), exact over the vocabulary."""
    return _kl(student, teacher)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(q‖p) = Σ_v q (log q − log p), exact over the vocabulary."""
    return _kl(teacher, student)


def jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """JSD(β) = β KL(q‖m) + (1 − β) KL(p‖m), m = (1 − β) p + β q, for 0 < β < 1.

    It tends to 0 at both ends; that β = 0 and 1 commonly name the full KLs is a convention of
    configurations, so it is refused here.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta: must be between 0 and 1, both excluded (got {beta})")
    mixture = torch.logaddexp(student + math.log1p(-beta), teacher + math.log(beta))
    return beta * _kl(teacher, mixture) + (1 - beta) * _kl(student, mixture)


def skewed_kl(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """KL(p‖(1 − α) q + α p), bounded by −log α where q rules out what p does; 0 ≤ α < 1."""
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha: must be from 0 to below 1 (got {alpha})")
    if alpha == 0:
        return reverse_kl(student, teacher)
    mixture = torch.logaddexp(teacher + math.log1p(-alpha), student + math.log(alpha))
    return _kl(student, mixture)


def entropy(logp: Tensor, probabilities: Tensor | None = None) -> Tensor:
    """−Σ_v p log p; `probabilities` are exp(logp), where somebody has them."""
    p = logp.exp() if probabilities is None else probabilities
    return -torch.where(logp == -math.inf, 0.0, p * logp).sum(-1)


def rank(logp: Tensor, ids: Tensor) -> Tensor:
    """How many ids are likelier than this one; 0 for the likeliest. (N,) int64."""
    return (logp > at(logp, ids).unsqueeze(-1)).sum(-1)


def tail_log_prob(logp: Tensor, ids: Tensor) -> Tensor:
    """log of the probability outside the given distinct ids: (N, V), (N, k) → (N,).

    Summed over what is outside rather than taken from 1, which would lose a small tail to rounding.
    """
    return logp.scatter(-1, ids, -math.inf).logsumexp(-1)


def top_k_reverse_kl(student: Tensor, teacher: Tensor, ids: Tensor) -> Tensor:
    """Reverse KL over the given ids and one bucket for all others: ≥ 0 and ≤ the exact one.

    Without the bucket it could be negative, and minimised by emptying the ids.
    """
    if ids.shape[-1] == student.shape[-1]:
        return reverse_kl(student, teacher)
    return _kl(_bucketed(student, ids), _bucketed(teacher, ids))


def bucketed_reverse_kl(student: Tensor, ids: Tensor, teacher: Tensor) -> Tensor:
    """The same where only the teacher's log-probabilities (N, k) of these ids are known.

    Its bucket is what is left to 1, at least 1e-12: a sum that rounds to 1 leaves nothing.
    """
    tail = torch.log((-torch.expm1(teacher.logsumexp(-1))).clamp(min=1e-12))
    return _kl(_bucketed(student, ids), torch.cat([teacher, tail.unsqueeze(-1)], dim=-1))


def _bucketed(logp: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the given ids and, last, of all others together: (N, k + 1)."""
    return torch.cat([logp.gather(-1, ids), tail_log_prob(logp, ids).unsqueeze(-1)], dim=-1)
