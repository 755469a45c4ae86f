"""Which rollouts are kept, and in what form."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd.config.run import RunConfig
from opd.teachers.routing import TeacherRouter
from opd.training.rollouts import Completion
from opd.types import Kind, Rollout, TokenRecord


def as_rollouts(
    router: TeacherRouter,
    completions: Sequence[Completion],
    records: Sequence[TokenRecord],
    *,
    step: int,
    kind: Kind,
    temperature: float,
) -> list[Rollout]:
    """The completions with what was recorded of their tokens by the router's teachers."""
    return [
        Rollout(
            step=step,
            kind=kind,
            group=c.prompt.number,
            sample=c.number,
            prompt=c.prompt.text,
            prompt_ids=np.asarray(c.prompt.ids, dtype=np.int64),
            completion=c.text,
            finish_reason=c.sample.finish_reason,
            temperature=temperature,
            record=record,
            reward=c.reward,
            answer=c.prompt.answer,
            author=c.author,
            teacher_end=router.end_token(c.prompt),
        )
        for c, record in zip(completions, records, strict=True)
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


def all_tokens(records: Sequence[TokenRecord], name: str) -> NDArray[Any] | None:
    """One quantity of all records' tokens, one after the other; None where any has it not."""
    columns = [getattr(record, name) for record in records]
    return None if any(c is None for c in columns) else np.concatenate(columns)
