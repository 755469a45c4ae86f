"""What is trained: per-token losses, and how they are reduced to one number."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from opd import divergences
from opd.config import ObjectiveConfig


@dataclass(frozen=True)
class LossInputs:
    """The N completion tokens of a micro-batch; only `student` carries a gradient."""

    student: Tensor  # (N, V) log-probabilities
    teacher: Tensor  # (N, V) log-probabilities, frozen
    targets: Tensor  # (N,) sampled ids
    sampler: Tensor  # (N,) log-probabilities as sampled
    mask: Tensor  # (N,) weight in the loss; 0 does not count

    def where(self, rows: Tensor) -> "LossInputs":
        return LossInputs(*(getattr(self, f.name)[rows] for f in fields(self)))


@dataclass(frozen=True)
class TokenLoss:
    """loss (N,), with gradient; advantages (N,) detached, or None where the objective has none."""

    loss: Tensor
    advantages: Tensor | None = None


def exact_reverse_kl(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = m · KL(p‖q), over the whole vocabulary."""
    return TokenLoss(x.mask * divergences.reverse_kl(x.student, x.teacher))


def policy_gradient(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = −exp(log p − log p_old) · A with A = −c · m · (log p_old − log q), detached.

    The minus makes a token that the teacher likes less than the sampler did (log-ratio > 0) a
    disadvantage. With a clip ε the pessimistic of both products is taken, as in PPO.
    Source: Lu et al., "On-Policy Distillation", Thinking Machines Lab, 2025.
    """
    log_ratio = divergences.log_ratio(x.sampler, divergences.at(x.teacher, x.targets))
    advantages = (-config.coefficient * x.mask * log_ratio).detach()
    ratio = torch.exp(divergences.at(x.student, x.targets) - x.sampler)
    gain = ratio * advantages
    if config.clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - config.clip, 1 + config.clip) * advantages)
    return TokenLoss(-gain, advantages)


OBJECTIVES: dict[str, Callable[[LossInputs, ObjectiveConfig], TokenLoss]] = {
    "reverse_kl": exact_reverse_kl,
    "policy_gradient": policy_gradient,
}


def token_losses(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """The configured objective of every token; a token of weight 0 gets exactly 0.

    Such tokens are left out before anything is computed: multiplied by 0 instead, one that is
    infinite or not a number would still spoil the gradient.
    """
    rows = torch.nonzero(x.mask > 0).squeeze(-1)
    counted = OBJECTIVES[config.name](x.where(rows), config)
    zeros = torch.zeros_like(x.sampler)
    return TokenLoss(
        zeros.index_put((rows,), counted.loss),
        None if counted.advantages is None else zeros.index_put((rows,), counted.advantages),
    )


def reduce(loss: Tensor, *, tokens: int, reduction: str) -> Tensor:
    """Sums a micro-batch's token losses; token_mean divides by the count of the whole step.

    Dividing by the step's count, not the micro-batch's, is what makes micro-batches add up.
    """
    total = loss.sum()
    return total / tokens if reduction == "token_mean" else total
