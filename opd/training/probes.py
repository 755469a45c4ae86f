"""Answers that the starting student gave once, and that every evaluation scores again.

The prompt and the tokens stay, the models' opinion of them moves: what is left of a disagreement
can be followed token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opd.data.prompts import Prompt
from opd.grading.graders import grade
from opd.sampling.sample import Sample
from opd.training.rollouts import Completion, Writer
from opd.types import FinishReason


@dataclass(frozen=True)
class Answer:
    """One completion that is kept for good: its ids (T,), EOS included, and how it ended."""

    ids: tuple[int, ...]
    finish_reason: FinishReason


def first_answers(written: Sequence[Completion]) -> tuple[Answer, ...]:
    """The first completion of each prompt, in the order of the prompts."""
    return tuple(
        Answer(tuple(int(i) for i in w.sample.completion_ids), w.sample.finish_reason)
        for w in written
        if w.number == 0
    )


def rewritten(
    writer: Writer, prompts: Sequence[Prompt], answers: Sequence[Answer]
) -> list[Completion]:
    """The kept answers as completions of their prompts; nobody sampled them now, so they have no
    sampler log-probabilities.
    """
    texts = writer.pair.tokenizer.batch_decode([a.ids for a in answers], skip_special_tokens=True)
    return [
        Completion(
            prompt,
            0,
            Sample(np.asarray(answer.ids, np.int64), None, answer.finish_reason),
            text,
            grade(writer.config.prompts, text, prompt.answer),
        )
        for prompt, answer, text in zip(prompts, answers, texts, strict=True)
    ]


def stored(answers: Any) -> tuple[Answer, ...]:
    """Answers out of their JSON form. Raises KeyError and TypeError for anything else."""
    return tuple(Answer(tuple(a["ids"]), a["finish_reason"]) for a in answers)
