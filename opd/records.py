"""Which rollouts are kept, and in what form."""

from collections.abc import Sequence

import numpy as np

from opd.config import RunConfig
from opd.rollouts import Written
from opd.types import Kind, Rollout, TokenRecord

BYTES_PER_TOKEN = 36  # without the top-k; what a token record takes in the store
BYTES_PER_ALTERNATIVE = 12  # id, and its log-probability by both models
ROLLOUT_BYTES = 1500  # the row, its text and its indexes


def as_rollouts(
    written: Sequence[Written],
    found: Sequence[TokenRecord],
    *,
    step: int,
    kind: Kind,
    temperature: float,
) -> list[Rollout]:
    return [
        Rollout(
            step=step,
            kind=kind,
            group=w.prompt.number,
            sample=w.number,
            prompt=w.prompt.text,
            prompt_ids=np.asarray(w.prompt.ids, dtype=np.int64),
            completion=w.text,
            finish_reason=w.sample.finish_reason,
            temperature=temperature,
            record=record,
            reward=w.reward,
            answer=w.prompt.answer,
        )
        for w, record in zip(written, found, strict=True)
    ]


def kept(rollouts: Sequence[Rollout], step: int, config: RunConfig) -> list[Rollout]:
    """The first rollouts of the step that fit its share of the run's budget; always at least one.

    In the order of the prompts' draw, which does not look at the outcome, so that what is kept is
    a fair sample of the step.
    """
    settings = config.records
    if (step - 1) % settings.every and step != config.steps:
        return []
    recorded_steps = -(-config.steps // settings.every)
    share = settings.budget_mb * 1e6 / recorded_steps
    per_token = BYTES_PER_TOKEN + 2 * settings.top_k * BYTES_PER_ALTERNATIVE + 8
    chosen: list[Rollout] = []
    for rollout in rollouts[: settings.rollouts_per_step]:
        share -= ROLLOUT_BYTES + per_token * len(rollout.record)
        if chosen and share < 0:
            break
        chosen.append(rollout)
    return chosen
