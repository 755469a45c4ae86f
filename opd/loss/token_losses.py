"""The configured objective of a micro-batch's tokens, and how they are reduced to one number."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from opd.loss import importance
from opd.loss.objective import LossInputs, Settings, TokenLoss
from opd.loss.objective_table import OBJECTIVES


def token_losses(x: LossInputs, settings: Settings, rows: Tensor | None = None) -> TokenLoss:
    """The configured objective of every token, times its weight; weight 0 gives exactly 0.

    Such tokens are left out before anything is computed: multiplied by 0 instead, one that is
    infinite or not a number would still spoil the gradient. `rows` are the numbers of those that
    count; looked for here, the host waits for them.
    """
    loss = OBJECTIVES[settings.name].loss
    if loss is None:
        raise ValueError(f"{settings.name} cannot be trained")
    if rows is None:
        rows = torch.nonzero(x.mask > 0).squeeze(-1)
    everything = len(rows) == len(x.mask)
    counted = x if everything else x.where(rows)
    token_loss = _with_reward(counted, settings, loss(counted, settings))

    def spread(values: Tensor) -> Tensor:
        weighted = counted.mask * values
        if everything:
            return weighted
        return weighted.new_zeros(len(x.mask)).index_put((rows,), weighted)

    advantages = token_loss.advantages
    return TokenLoss(
        spread(token_loss.loss),
        None if advantages is None else spread(advantages),
        token_loss.reverse_kl if everything else None,
    )


def _with_reward(x: LossInputs, settings: Settings, token_loss: TokenLoss) -> TokenLoss:
    """Adds the reward's policy gradient to objectives without advantages, and clips their loss."""
    if token_loss.advantages is not None:
        return token_loss
    loss = token_loss.loss
    if settings.weighting.kl_clip is not None:
        loss = loss.clamp(max=settings.weighting.kl_clip)
    if not settings.reward_weight or x.reward_advantage is None:
        return replace(token_loss, loss=loss)
    reward = importance.weighted(x, settings.reward_weight * x.reward_advantage, None)
    return replace(token_loss, loss=loss + reward.loss, advantages=reward.advantages)


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
