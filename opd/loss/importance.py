"""−ratio · A: advantages weighted by the importance ratio, exp(student − sampler).

With a clip ε the pessimistic of both products, as in PPO: min(r A, clip(r, 1 ± ε) A).
Source: Schulman et al., arXiv 1707.06347.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opd.loss.divergence_bounds import Array, Interval
from opd.loss.objective import LossInputs, Parameter, StoredLosses, StoredTokens, TokenLoss

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


def weighted(x: LossInputs, advantages: Tensor, clip: float | None) -> TokenLoss:
    """Of detached advantages (N,)."""
    import torch

    from opd.loss import divergences

    ratio = torch.exp(divergences.at(x.student, x.targets) - x.sampler)
    gain = ratio * advantages
    if clip is not None:
        gain = torch.minimum(gain, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return TokenLoss(-gain, advantages)


def stored(
    tokens: StoredTokens, advantages: Array, clip: float | None, clipped: Array | None = None
) -> StoredLosses:
    """The same of stored tokens; `clipped` (N,) bool marks advantages that were limited already."""
    touched = np.zeros(len(advantages), bool) if clipped is None else clipped
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.exp(tokens.wide("student_logprobs") - tokens.columns["sampler_logprobs"])
        gain = ratio * advantages
        if clip is not None:
            limited = np.clip(ratio, 1 - clip, 1 + clip) * advantages
            touched = touched | (limited < gain)
            gain = np.minimum(gain, limited)
    return StoredLosses(Interval.exactly(-gain), touched, np.zeros(len(gain), bool))


def clip_in_words(clip: float | None) -> str:
    return "" if clip is None else f", ratio clipped to 1 ± {clip:g}"
