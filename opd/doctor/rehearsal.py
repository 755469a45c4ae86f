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
from opd.models.load import declared_stops
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import TeacherRouter, read
from opd.training.loading import Callbacks, LoadedRun
from opd.training.rollouts import Completion, Writer, sequences, write_evaluation
from opd.training.scoring import Scoring, batch_of, reader_of, scored, student_pieces
from opd.types import TokenRecord

PROMPTS = 8
LONGEST = 512  # tokens; a longer limit is cut to it here
TOP_K = 8


@dataclass(frozen=True)
class Rehearsal:
    """Rollouts with their records; `own` are the records with the student as its own teacher."""

    config: RunConfig
    loaded: LoadedRun
    written: Sequence[Completion]
    records: Sequence[TokenRecord]
    own: Sequence[TokenRecord]
    seconds: float  # of sampling
    limit: int  # of a completion's tokens here

    @property
    def judged(self) -> bool:
        return all(r.teacher_logprobs is not None for r in self.records)

    def all_of(self, name: str) -> np.ndarray | None:
        columns = [getattr(r, name) for r in self.records]
        return None if any(c is None for c in columns) else np.concatenate(columns)


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
    written = write_evaluation(
        Writer(loaded.pair, short), prompts, temperature=temperature, stop=callbacks.stop
    )
    seconds = time.perf_counter() - start
    sampler = [w.sample.sampler_logprobs for w in written]
    whole = sequences(written)
    settings = Scoring(temperature, TOP_K, config.optimizer.micro_batch_tokens)

    def judged(router: TeacherRouter) -> list[TokenRecord]:
        readings = read(
            router,
            list(prompts),
            whole,
            temperature=temperature,
            max_tokens=settings.micro_batch_tokens,
            pairs_per_token=loaded.pair.pairs_per_token,
        )
        return scored(loaded.pair, whole, settings, readings, sampler)

    callbacks.say("the teacher reads the answers")
    records = judged(loaded.router)
    callbacks.say("the student reads its own answers")
    itself = LocalTeacher(loaded.pair.student, reader_of(loaded.pair), state=loaded.pair.computing)
    alone = config.model_copy(update={"teacher": TeacherConfig.model_validate({"kind": "self"})})
    own = judged(TeacherRouter({"": itself}, alone, loaded.pair.tokenizer))
    return Rehearsal(config, loaded, written, records, own, seconds, limit)


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
    teachers = list(loaded.router.teachers.values())
    if not teachers or not all(isinstance(t, LocalTeacher) for t in teachers):
        return None
    theirs = [i for t in teachers for i in declared_stops(t.model)]
    ids = tuple(i for i in dict.fromkeys([*pair.eos_ids, *theirs]) if i < pair.vocab)
    whole, temperature = sequences(rehearsal.written), rehearsal.config.sampling.temperature
    found: dict[int, tuple[Any, Any]] = {}
    readings = read(
        loaded.router,
        [w.prompt for w in rehearsal.written],
        whole,
        temperature=temperature,
        max_tokens=rehearsal.config.optimizer.micro_batch_tokens,
        pairs_per_token=pair.pairs_per_token,
    )
    for rows, reading in readings:
        assert reading is not None
        batch = batch_of(pair, whole.take(rows))
        with pair.computing():
            hidden = completion_hidden(pair.student, batch)
        ours, theirs_at = [], []
        for cut, own in student_pieces(pair, hidden, temperature):
            full = reading.view(cut, batch.targets[cut]).full
            assert full is not None
            ours.append(own[:, list(ids)].exp().float().cpu().numpy())
            theirs_at.append(full[:, list(ids)].exp().float().cpu().numpy())
        ends = np.cumsum(batch.lengths)[:-1]
        parts = (np.split(np.concatenate(x), ends) for x in (ours, theirs_at))
        found |= zip(rows, zip(*parts, strict=True), strict=True)
    order = [found[i] for i in range(len(whole))]
    lengths = np.cumsum([0, *(len(a) for a, _ in order)])
    return Stops(
        ids,
        np.concatenate([a for a, _ in order]),
        np.concatenate([b for _, b in order]),
        [slice(int(a), int(b)) for a, b in pairwise(lengths)],
    )
