"""−ratio · A: advantages weighted by the importance ratio, exp(student − sampler).

With a clip ε the pessimistic of both products, as in PPO: min(r A, clip(r, 1 ± ε) A); beyond it a
token has no gradient. With a cap C the ratio is min(r, C), and a token beyond it keeps its gradient
with that weight, C A ∇log p: truncated importance sampling.
Sources: Schulman et al., arXiv 1707.06347; Ionides, "Truncated Importance Sampling", 2008; Yao et
al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opd.loss.divergence_bounds import Array, Interval
from opd.loss.objective import (
    LossInputs,
    Parameter,
    Settings,
    StoredLosses,
    StoredTokens,
    TokenLoss,
)

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS = ("sampler_logprobs", "student_logprobs")  # what the ratio is made of
RATIO_CLIP = Parameter(
    "clip",
    "Clip of the importance ratio to 1 ± this",
    default=None,
    limits={"gt": 0, "le": 10},
    label="Ratio clip, 1 ±",
    step=0.05,
    lab="ratio_clip",
    elsewhere="only {owners} have an importance ratio to clip",
)
RATIO_CAP = Parameter(
    "ratio_cap",
    "Truncation of the importance ratio: at most this",
    default=None,
    limits={"ge": 1, "le": 1000},
    label="Ratio at most",
    step=0.5,
    elsewhere="only {owners} have an importance ratio to truncate",
)


def weighted(
    x: LossInputs, advantages: Tensor, clip: float | None, cap: float | None = None
) -> TokenLoss:
    """Of detached advantages (N,)."""
    import torch

    from opd.loss import divergences

    ratio = torch.exp(divergences.at(x.student, x.targets) - x.sampler)
    if cap is not None:  # by a factor without gradient, so that the token keeps its own
        ratio = ratio * (cap / ratio.detach()).clamp(max=1)
    gain = ratio * advantages
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return TokenLoss(-gain, advantages)


def stored(
    tokens: StoredTokens, advantages: Array, settings: Settings, clipped: Array | None = None
) -> StoredLosses:
    """The same of stored tokens; `clipped` (N,) bool marks advantages that were limited already."""
    touched = np.zeros(len(advantages), bool) if clipped is None else clipped
    clip, cap = settings.clip, settings.ratio_cap
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.exp(tokens.wide("student_logprobs") - tokens.columns["sampler_logprobs"])
        if cap is not None:
            touched = touched | (ratio > cap)
            ratio = np.minimum(ratio, cap)
        gain = ratio * advantages
        if clip is not None:
            limited = np.clip(ratio, 1 - clip, 1 + clip) * advantages
            touched = touched | (limited < gain)
            gain = np.minimum(gain, limited)
    return StoredLosses(Interval.exactly(-gain), touched, np.zeros(len(gain), bool))


def limits_in_words(settings: Settings) -> str:
    cap, clip = settings.ratio_cap, settings.clip
    return ("" if cap is None else f", ratio truncated at {cap:g}") + (
        "" if clip is None else f", ratio clipped to 1 ± {clip:g}"
    )
