"""Which rollouts are kept, and in what form."""

from collections.abc import Sequence

import numpy as np

from opd.config.run import RunConfig
from opd.training.rollouts import Completion
from opd.types import Kind, Rollout, TokenRecord


def as_rollouts(
    written: Sequence[Completion],
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
            author=w.author,
        )
        for w, record in zip(written, found, strict=True)
    ]


def kept(rollouts: Sequence[Rollout], step: int, config: RunConfig) -> list[Rollout]:
    """The step's first rollouts, on the steps that are recorded and always on the last.

    In the order of the prompts' draw, which does not look at the outcome, so that what is kept is
    a fair sample of the step. The store drops from the end what exceeds the run's budget.
    """
    settings = config.records
    if (step - 1) % settings.every and step != config.steps:
        return []
    return list(rollouts[: settings.rollouts_per_step])
