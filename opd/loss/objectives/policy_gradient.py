"""The sampled token's log-ratio as its advantage."""

import numpy as np

from opd.loss import importance
from opd.loss.credit import discounted
from opd.loss.objective import (
    LossInputs,
    Objective,
    Parameter,
    Settings,
    StoredLosses,
    StoredTokens,
    TokenLoss,
)

COEFFICIENT = Parameter(
    "coefficient",
    "Weight of the advantage",
    default=1.0,
    limits={"gt": 0, "le": 1000},
    label="Coefficient",
)
GAMMA = Parameter(
    "gamma",
    "Discount applied to the log-ratios of later tokens",
    default=0.0,
    limits={"ge": 0, "le": 1},
    label="Discount γ",
    step=0.05,
    elsewhere="only policy_gradient has advantages over time ({name})",
)


def policy_gradient(x: LossInputs, settings: Settings) -> TokenLoss:
    """loss = −exp(log p − log p_old) · A with A = −c · (log p_old − log q), detached.

    The minus makes a token that the teacher likes less than the sampler did (log-ratio > 0) a
    disadvantage. `log_ratio`, where it is given, is the sum Σ_k γ^k d_{t+k} over later tokens.
    Source: Lu et al., "On-Policy Distillation", Thinking Machines Lab, 2025.
    """
    from opd.loss import divergences

    log_ratio = x.log_ratio
    if log_ratio is None:
        if x.teacher_at is None:
            raise ValueError("this objective needs the teacher's opinion of the sampled token")
        log_ratio = divergences.log_ratio(x.sampler, x.teacher_at)
    advantages = -settings.coefficient * log_ratio
    if settings.weighting.kl_clip is not None:
        advantages = advantages.clamp(-settings.weighting.kl_clip, settings.weighting.kl_clip)
    if x.reward_advantage is not None:
        advantages = advantages + settings.reward_weight * x.reward_advantage
    return importance.weighted(x, advantages.detach(), settings.clip, settings.ratio_cap)


def stored(tokens: StoredTokens, settings: Settings) -> StoredLosses:
    """The same, without a reward."""
    columns, clip = tokens.columns, settings.weighting.kl_clip
    ratio = (columns["sampler_logprobs"] - columns["teacher_logprobs"]).astype(np.float32)
    if settings.gamma:
        cuts = np.cumsum(tokens.lengths)[:-1]
        ratio = np.concatenate([discounted(r, settings.gamma) for r in np.split(ratio, cuts)])
    advantages = -settings.coefficient * ratio.astype(np.float64)
    limited = np.zeros(len(ratio), bool)
    if clip is not None:
        limited = np.abs(advantages) > clip
        advantages = np.clip(advantages, -clip, clip)
    return importance.stored(tokens, advantages, settings, limited)


def _in_words(s: Settings) -> str:
    gamma = f", discount {s.gamma:g}" if s.gamma else ""
    advantage = f"−{s.coefficient:g} × (log p sampled − log q)"
    return f"policy gradient with advantage {advantage}{gamma}{importance.limits_in_words(s)}"


OBJECTIVES = (
    Objective(
        name="policy_gradient",
        label="Policy gradient",
        help="The sampled token's log-ratio as advantage, with an importance ratio; works with a "
        "teacher behind a server.",
        formula="importance ratio × log-ratio of the sampled token",
        method="−exp(log p − log p_sampled) · A_t, A_t = −c Σ_k γ^k d_{t+k}, "
        "d = log p_sampled − log q",
        certainty="exact",
        needs="sampled",
        columns=(*importance.COLUMNS, "teacher_logprobs"),
        loss=policy_gradient,
        stored=stored,
        trained=_in_words,
        parameters=(COEFFICIENT, importance.RATIO_CLIP, importance.RATIO_CAP, GAMMA),
        importance_ratio=True,
        looks_ahead=lambda settings: settings.gamma > 0,
    ),
)
