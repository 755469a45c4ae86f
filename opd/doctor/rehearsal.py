"""What the dynamic checks look at: a few prompts answered by the student, read by both models."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from opd.config.models import TeacherConfig
from opd.config.run import RunConfig
from opd.data.prompts import Prompt
from opd.models.forward import completion_hidden
from opd.models.load import Pair
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import MAIN, TeacherRouter
from opd.training.loading import Callbacks, LoadedRun
from opd.training.records import all_tokens
from opd.training.rollouts import Completion, Writer, sequences, write_evaluation
from opd.training.scoring import Scoring, batch_of, reader_of, score_completions, student_pieces
from opd.types import TokenRecord

PROMPTS = 8
LONGEST = 512  # tokens; a longer limit is cut to it here
TOP_K = 8


@dataclass(frozen=True)
class Rehearsal:
    """Rollouts with their records; `self_scores` are those of the student as its own teacher.

    `by_teacher` are the teacher's answers to the same prompts; none where the run does not measure
    its score.
    """

    config: RunConfig
    loaded: LoadedRun
    completions: Sequence[Completion]
    records: Sequence[TokenRecord]
    self_scores: Sequence[TokenRecord]
    seconds: float  # of sampling
    limit: int  # of a completion's tokens here
    by_teacher: Sequence[Completion] = ()

    @property
    def judged(self) -> bool:
        return all(r.teacher_logprobs is not None for r in self.records)

    def all_of(self, name: str) -> np.ndarray | None:
        return all_tokens(self.records, name)


def rehearse(
    config: RunConfig, loaded: LoadedRun, prompts: Sequence[Prompt], callbacks: Callbacks
) -> Rehearsal:
    """Samples one completion of each prompt, and scores them. Raises Stopped."""
    limit = min(config.sampling.max_new_tokens, LONGEST)
    short = config.model_copy(
        update={
            "sampling": config.sampling.model_copy(update={"max_new_tokens": limit}),
            "evaluation": config.evaluation.model_copy(update={"samples": 1}),
        }
    )
    temperature = config.sampling.temperature
    callbacks.say(f"the student answers {len(prompts)} prompts")
    start = time.perf_counter()
    completions = write_evaluation(
        Writer(loaded.pair, short), prompts, temperature=temperature, stop=callbacks.stop
    )
    if loaded.pair.device.type == "cuda":  # the first pass captures what later ones replay
        start = time.perf_counter()
        completions = write_evaluation(
            Writer(loaded.pair, short), prompts, temperature=temperature, stop=callbacks.stop
        )
    seconds = time.perf_counter() - start
    settings = Scoring(temperature, TOP_K, config.optimizer.tokens_per_pass)
    callbacks.say("the teacher reads the answers")
    records = score_completions(loaded.router, completions, settings)
    callbacks.say("the student reads its own answers")
    self_scores = score_completions(_self_taught(config, loaded.pair), completions, settings)
    by_teacher: Sequence[Completion] = ()
    if config.evaluates_teacher:
        callbacks.say("the teacher answers them itself")
        writer = Writer(loaded.pair, short, loaded.router)
        by_teacher = write_evaluation(
            writer, prompts, temperature=temperature, stop=callbacks.stop, author="teacher"
        )
    return Rehearsal(config, loaded, completions, records, self_scores, seconds, limit, by_teacher)


def _self_taught(config: RunConfig, pair: Pair) -> TeacherRouter:
    """The student as its own and only teacher."""
    student = LocalTeacher(pair.student, reader_of(pair), state=pair.computing)
    teacher = TeacherConfig.model_validate({"kind": "self"})
    return TeacherRouter({MAIN: student}, config.model_copy(update={"teacher": teacher}), pair)


@dataclass(frozen=True)
class Stops:
    """Probabilities of the ids that may end an answer, at every completion token of all rollouts.

    `student` and `teacher` are (N, len(ids)); rollout i has the rows of `spans[i]`.
    """

    ids: tuple[int, ...]
    student: np.ndarray
    teacher: np.ndarray
    spans: Sequence[slice]


@torch.no_grad()
def stop_probabilities(rehearsal: Rehearsal) -> Stops | None:
    """None where a teacher does not give its distribution, or none reads."""
    loaded, pair = rehearsal.loaded, rehearsal.loaded.pair
    judges = list(loaded.router.teachers.values())
    teachers = [t for t in judges if isinstance(t, LocalTeacher)]
    if not teachers or len(teachers) < len(judges):
        return None
    theirs = [i for t in teachers for i in t.stop_ids]
    ids = tuple(i for i in dict.fromkeys([*pair.eos_ids, *theirs]) if i < pair.vocab)
    whole, temperature = sequences(rehearsal.completions), rehearsal.config.sampling.temperature
    by_row: dict[int, tuple[Any, Any]] = {}
    readings = loaded.router.read(
        [c.prompt for c in rehearsal.completions],
        whole,
        temperature=temperature,
        max_tokens=rehearsal.config.optimizer.tokens_per_pass,
    )
    for rows, reading in readings:
        assert reading is not None
        batch = batch_of(pair, whole.take(rows))
        with pair.computing():
            hidden = completion_hidden(pair.student, batch)
        ours, theirs_at = [], []
        for cut, student in student_pieces(pair, hidden, temperature):
            full = reading.view(cut, batch.targets[cut]).full
            assert full is not None
            ours.append(student[:, list(ids)].exp().float().cpu().numpy())
            theirs_at.append(full[:, list(ids)].exp().float().cpu().numpy())
        ends = np.cumsum(batch.lengths)[:-1]
        parts = (np.split(np.concatenate(x), ends) for x in (ours, theirs_at))
        by_row |= zip(rows, zip(*parts, strict=True), strict=True)
    order = [by_row[i] for i in range(len(whole))]
    lengths = np.cumsum([0, *(len(a) for a, _ in order)])
    return Stops(
        ids,
        np.concatenate([a for a, _ in order]),
        np.concatenate([b for _, b in order]),
        [slice(int(a), int(b)) for a, b in pairwise(lengths)],
    )
