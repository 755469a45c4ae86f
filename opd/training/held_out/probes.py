"""Answers that the starting student gave once, and that every evaluation scores again.

The prompt and the tokens stay, the models' opinion of them moves: what is left of a disagreement
can be followed token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opd.data.prompts import Prompt
from opd.sampling.sample import Sample
from opd.training.rollouts import Completion, Writer, graded
from opd.types import FinishReason


@dataclass(frozen=True)
class Answer:
    """One completion that is kept for good: its ids (T,), EOS included, and how it ended."""

    ids: tuple[int, ...]
    finish_reason: FinishReason


def first_answers(completions: Sequence[Completion]) -> tuple[Answer, ...]:
    """The first completion of each prompt, in the order of the prompts."""
    return tuple(
        Answer(tuple(int(i) for i in c.sample.completion_ids), c.sample.finish_reason)
        for c in completions
        if c.number == 0
    )


def as_completions(
    writer: Writer, prompts: Sequence[Prompt], answers: Sequence[Answer]
) -> list[Completion]:
    """The kept answers as completions of their prompts; nobody sampled them now, so they have no
    sampler log-probabilities.
    """
    jobs = [(prompt, 0) for prompt in prompts]
    samples = [Sample(np.asarray(a.ids, np.int64), None, a.finish_reason) for a in answers]
    return graded(writer.pair.tokenizer, writer.config.prompts, jobs, samples)


def stored(answers: Any) -> tuple[Answer, ...]:
    """Answers out of their JSON form. Raises KeyError and TypeError for anything else."""
    return tuple(Answer(tuple(a["ids"]), a["finish_reason"]) for a in answers)
