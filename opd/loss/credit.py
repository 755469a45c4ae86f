"""Credit of tokens and completions before the loss is formed: weights, discounts, group rewards."""

import math
from collections.abc import Collection, Sequence

import numpy as np

from opd.errors import ErrorKind, UserError
from opd.loss.objective import Weighting
from opd.types import Floats, Ints


def token_weights(ids: Ints, special: Collection[int], weighting: Weighting) -> Floats:
    """How much each token of one completion (T,) counts in the loss: 1 or 0.

    prefix_share keeps the first ⌈share · T⌉ tokens; skip_special leaves out special ids.
    """
    weights = np.ones(len(ids), np.float32)
    weights[math.ceil(weighting.prefix_share * len(ids) - 1e-9) :] = 0
    if weighting.skip_special:
        weights[np.isin(ids, list(special))] = 0
    return weights


def check_weights(weights: Sequence[Floats]) -> None:
    """Raises UserError when no token of the whole step counts."""
    if not any(w.any() for w in weights):
        raise UserError(
            "no token of this step counts: its completions hold only special tokens; "
            "turn skip_special off",
            where="objective.weighting",
            kind=ErrorKind.BAD_DATA,
        )


def discounted(log_ratios: Floats, gamma: float) -> Floats:
    """Σ_{k ≥ 0} γ^k d_{t+k} of one completion, (T,) → (T,); its own d_t where γ is 0."""
    if gamma == 0:
        return log_ratios
    sums = np.empty_like(log_ratios, dtype=np.float64)
    later = 0.0
    for t in range(len(log_ratios) - 1, -1, -1):
        later = float(log_ratios[t]) + gamma * later
        sums[t] = later
    return sums.astype(log_ratios.dtype)


def group_advantages(
    rewards: Sequence[float | None], groups: Sequence[int], *, normalize: bool
) -> list[float]:
    """Each completion's reward less its group's mean, divided by its group's standard deviation.

    0 for completions without a reward and for groups of equal rewards. The standard deviation is
    that of the sample (n − 1), with 1e-4 added. Source: Shao et al., arXiv 2402.03300.
    """
    members: dict[int, list[float]] = {}
    for reward, group in zip(rewards, groups, strict=True):
        if reward is not None:
            members.setdefault(group, []).append(reward)
    advantages = []
    for reward, group in zip(rewards, groups, strict=True):
        others = members.get(group, [])
        if reward is None or len(others) < 2:
            advantages.append(0.0)
            continue
        centred = reward - float(np.mean(others))
        advantages.append(
            centred / (float(np.std(others, ddof=1)) + 1e-4) if normalize else centred
        )
    return advantages
