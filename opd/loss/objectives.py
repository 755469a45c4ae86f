"""What is trained: per-token losses behind one seam, and how they are reduced to one number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from opd.config.sections import ObjectiveConfig
from opd.loss import divergences


@dataclass(frozen=True)
class LossInputs:
    """The N completion tokens of a micro-batch; only `student` carries a gradient.

    What an objective does not need may be None. All log-probabilities are in nats.
    """

    student: Tensor  # (N, V) log-probabilities
    targets: Tensor  # (N,) ids of the tokens written
    sampler: Tensor  # (N,) log-probabilities as sampled
    mask: Tensor  # (N,) weight in the loss; 0 does not count
    teacher: Tensor | None = None  # (N, V) log-probabilities, frozen
    teacher_at: Tensor | None = None  # (N,) the teacher's of the targets
    teacher_ids: Tensor | None = None  # (N, k) the teacher's likeliest ids
    teacher_top: Tensor | None = None  # (N, k) and their log-probabilities
    log_ratio: Tensor | None = None  # (N,) sampler − teacher, discounted over later tokens
    reward_advantage: Tensor | None = None  # (N,) of the whole completion, relative to its group
    reference_at: Tensor | None = None  # (N,) log-probabilities by the student as it started

    def where(self, rows: Tensor) -> "LossInputs":
        """The inputs of these tokens alone."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{k: v.index_select(0, rows) for k, v in given.items() if v is not None}
        )


@dataclass(frozen=True)
class TokenLoss:
    """loss (N,), with gradient; advantages (N,) detached, or None where the objective has none."""

    loss: Tensor
    advantages: Tensor | None = None


def _whole(x: LossInputs) -> Tensor:
    if x.teacher is None:
        raise ValueError("this objective needs the teacher's whole distribution")
    return x.teacher


def reverse_kl(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = KL(p‖q), over the whole vocabulary."""
    return TokenLoss(divergences.reverse_kl(x.student, _whole(x)))


def forward_kl(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = KL(q‖p), over the whole vocabulary."""
    return TokenLoss(divergences.forward_kl(x.student, _whole(x)))


def jsd(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = JSD(β); by convention β = 0 is the forward and β = 1 the reverse KL.

    Source: Agarwal et al., arXiv 2306.13649; the ends as in TRL.
    """
    if config.beta == 0:
        return forward_kl(x, config)
    if config.beta == 1:
        return reverse_kl(x, config)
    return TokenLoss(divergences.jsd(x.student, _whole(x), config.beta))


def skewed_kl(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = KL(p‖(1 − α) q + α p). Source: Ko et al., DistiLLM, arXiv 2402.03898."""
    return TokenLoss(divergences.skewed_kl(x.student, _whole(x), config.skew))


def entropy_aware(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = KL(p‖q) where the teacher's entropy is below the threshold, else KL(q‖p).

    Source: Entropy-Aware On-Policy Distillation, arXiv 2603.07079.
    """
    teacher = _whole(x)
    unsure = divergences.entropy(teacher) >= config.entropy_threshold
    reverse = divergences.reverse_kl(x.student, teacher)
    forward = divergences.forward_kl(x.student, teacher)
    return TokenLoss(torch.where(unsure, forward, reverse))


def student_top_k(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = reverse KL over the student's k likeliest ids and one bucket for the rest."""
    k = min(config.top_k, x.student.shape[-1])
    ids = x.student.detach().topk(k, dim=-1).indices
    return TokenLoss(divergences.top_k_reverse_kl(x.student, _whole(x), ids))


def teacher_top_k(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = reverse KL over the teacher's k likeliest ids and one bucket for the rest."""
    if x.teacher is not None:
        ids = x.teacher.topk(min(config.top_k, x.teacher.shape[-1]), dim=-1).indices
        return TokenLoss(divergences.top_k_reverse_kl(x.student, x.teacher, ids))
    if x.teacher_ids is None or x.teacher_top is None:
        raise ValueError("this objective needs the teacher's likeliest tokens")
    ids, top = x.teacher_ids[:, : config.top_k], x.teacher_top[:, : config.top_k]
    return TokenLoss(divergences.bucketed_reverse_kl(x.student, ids, top))


def policy_gradient(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = −exp(log p − log p_old) · A with A = −c · (log p_old − log q), detached.

    The minus makes a token that the teacher likes less than the sampler did (log-ratio > 0) a
    disadvantage. `log_ratio`, where it is given, is the sum Σ_k γ^k d_{t+k} over later tokens.
    Source: Lu et al., "On-Policy Distillation", Thinking Machines Lab, 2025.
    """
    log_ratio = x.log_ratio
    if log_ratio is None:
        if x.teacher_at is None:
            raise ValueError("this objective needs the teacher's opinion of the sampled token")
        log_ratio = divergences.log_ratio(x.sampler, x.teacher_at)
    advantages = -config.coefficient * log_ratio
    if config.weighting.kl_clip is not None:
        advantages = advantages.clamp(-config.weighting.kl_clip, config.weighting.kl_clip)
    if x.reward_advantage is not None:
        advantages = advantages + config.reward_weight * x.reward_advantage
    return _importance_weighted(x, advantages.detach(), config.clip)


def sft(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = −log p(x): the likelihood of completions that somebody wrote."""
    return TokenLoss(-divergences.at(x.student, x.targets))


def grpo(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """loss = −ratio · A, A being the completion's reward relative to its group, + β k3.

    The KL to the student's start is estimated by k3 at the sampled token and back-propagated, as
    GRPO does, though what that trains is the forward KL. Source: Shao et al., arXiv 2402.03300.
    """
    if x.reward_advantage is None:
        raise ValueError("this objective needs rewards")
    result = _importance_weighted(x, x.reward_advantage, config.clip)
    if not config.reference_kl:
        return result
    if x.reference_at is None:
        raise ValueError("this objective needs the student's start")
    ratio = divergences.log_ratio(divergences.at(x.student, x.targets), x.reference_at)
    return replace(result, loss=result.loss + config.reference_kl * divergences.k3(ratio))


def _importance_weighted(x: LossInputs, advantages: Tensor, clip: float | None) -> TokenLoss:
    """−ratio · A; with a clip ε the pessimistic of both products, as in PPO."""
    ratio = torch.exp(divergences.at(x.student, x.targets) - x.sampler)
    gain = ratio * advantages
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return TokenLoss(-gain, advantages)


OBJECTIVES: dict[str, Callable[[LossInputs, ObjectiveConfig], TokenLoss]] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "jsd": jsd,
    "skewed_kl": skewed_kl,
    "entropy_aware": entropy_aware,
    "student_top_k": student_top_k,
    "teacher_top_k": teacher_top_k,
    "policy_gradient": policy_gradient,
    "sft": sft,
    "grpo": grpo,
}


def token_losses(x: LossInputs, config: ObjectiveConfig) -> TokenLoss:
    """The configured objective of every token, times its weight; weight 0 gives exactly 0.

    Such tokens are left out before anything is computed: multiplied by 0 instead, one that is
    infinite or not a number would still spoil the gradient.
    """
    rows = torch.nonzero(x.mask > 0).squeeze(-1)
    counted = x if len(rows) == len(x.mask) else x.where(rows)
    found = _with_reward(counted, config, OBJECTIVES[config.name](counted, config))

    def spread(values: Tensor) -> Tensor:
        weighted = counted.mask * values
        return weighted.new_zeros(len(x.mask)).index_put((rows,), weighted)

    return TokenLoss(
        spread(found.loss), None if found.advantages is None else spread(found.advantages)
    )


def _with_reward(x: LossInputs, config: ObjectiveConfig, found: TokenLoss) -> TokenLoss:
    """Adds the reward's policy gradient to objectives without advantages, and clips their loss."""
    if found.advantages is not None:
        return found
    loss = found.loss
    if config.weighting.kl_clip is not None:
        loss = loss.clamp(max=config.weighting.kl_clip)
    if not config.reward_weight or x.reward_advantage is None:
        return TokenLoss(loss)
    reward = _importance_weighted(x, config.reward_weight * x.reward_advantage, None)
    return TokenLoss(loss + reward.loss, reward.advantages)


def row_scales(weights: Sequence[float], reduction: str) -> list[float]:
    """What each completion's token losses are multiplied by; `weights` are its sums of weights.

    They refer to the whole step, not the micro-batch, which is what makes micro-batches add up:
    token_mean 1/Σ, sequence_mean 1/(completions that count · own), sum 1.
    """
    if reduction == "sum":
        return [1.0] * len(weights)
    if reduction == "token_mean":
        return [1.0 / sum(weights)] * len(weights)
    counted = sum(w > 0 for w in weights)
    return [1.0 / (counted * w) if w > 0 else 0.0 for w in weights]
