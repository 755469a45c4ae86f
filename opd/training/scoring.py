"""Student and teacher read the same tokens: everything that is recorded of each of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opd.config.run import RunConfig
from opd.loss import divergences
from opd.models.batches import ScoreBatch, Sequences, micro_batches, units
from opd.models.forward import Hidden, completion_hidden, logits_of, spans
from opd.models.load import Pair
from opd.teachers.end_token import EndToken
from opd.teachers.local import LocalTeacher, Reader, Reading, View
from opd.teachers.routing import TeacherRouter
from opd.training.rollouts import Completion, sequences
from opd.types import Floats, Ints, TokenRecord, TopK

MEASURED = (
    "student_logprobs",
    "teacher_logprobs",
    "reverse_kl",
    "student_entropy",
    "teacher_entropy",
    "teacher_rank",
)


@dataclass(frozen=True)
class Scoring:
    """How completions are scored."""

    temperature: float = 1.0
    top_k: int = 8
    micro_batch_tokens: int = 8192

    @classmethod
    def of(cls, config: RunConfig, temperature: float) -> "Scoring":
        """As the run scores; a greedy completion (temperature 0) at temperature 1."""
        return cls(temperature or 1.0, config.records.top_k, config.optimizer.micro_batch_tokens)


@dataclass(frozen=True)
class Measures:
    """Per-token quantities of N tokens, detached, on the host; the top-k is (N, k).

    What the teacher did not say is None.
    """

    student_logprobs: Floats
    student_entropy: Floats
    student_topk: TopK | None
    teacher_logprobs: Floats | None = None
    reverse_kl: Floats | None = None
    teacher_entropy: Floats | None = None
    teacher_rank: Ints | None = None
    same_top: np.ndarray | None = None  # bool: is the same token the likeliest to both?
    teacher_topk: TopK | None = None


@torch.no_grad()
def score(
    pair: Pair, whole: Sequences, settings: Scoring, end: EndToken | None = None
) -> list[TokenRecord]:
    """Teacher-forces given completions through both models; one record a sequence, no training.

    The teacher is shown `end` in place of the student's stop ids.
    """
    teacher = LocalTeacher(pair.teacher, reader_of(pair), end=end)
    rows = micro_batches(
        units(whole, pairs_per_token=pair.pairs_per_token), max_tokens=settings.micro_batch_tokens
    )
    readings = teacher.read([whole.take(r) for r in rows], settings.temperature)
    return _scored(pair, whole, settings, zip(rows, readings, strict=True))


def score_completions(
    router: TeacherRouter,
    completions: Sequence[Completion],
    settings: Scoring,
    *,
    with_sampler: bool = True,
) -> list[TokenRecord]:
    """Both models' opinions of the completions, each prompt's by its own teacher; no training.

    The sampler's log-probabilities are kept `with_sampler`: those of a greedy completion are at
    another temperature than it was sampled at.
    """
    whole = sequences(completions)
    readings = router.read(
        [c.prompt for c in completions],
        whole,
        temperature=settings.temperature,
        max_tokens=settings.micro_batch_tokens,
    )
    sampler = [c.sample.sampler_logprobs for c in completions] if with_sampler else None
    return _scored(router.pair, whole, settings, readings, sampler)


@torch.no_grad()
def _scored(
    pair: Pair,
    whole: Sequences,
    settings: Scoring,
    readings: Iterable[tuple[list[int], Reading | None]],
    sampler: Sequence[Floats | None] | None = None,
) -> list[TokenRecord]:
    by_row: dict[int, TokenRecord] = {}
    for rows, reading in readings:
        batch = batch_of(pair, whole.take(rows))
        with pair.computing():
            hidden = completion_hidden(pair.student, batch)
        parts = []
        for cut, student in student_pieces(pair, hidden, settings.temperature):
            view = reading.view(cut, batch.targets[cut]) if reading else None
            parts.append(measure(student, batch.targets[cut], view, settings.top_k))
        by_row |= zip(
            rows,
            records(
                joined(parts),
                [np.asarray(whole.completions[i], np.int64) for i in rows],
                sampler=None if sampler is None else [sampler[i] for i in rows],
            ),
            strict=True,
        )
    return [by_row[i] for i in range(len(whole))]


def reader_of(pair: Pair) -> Reader:
    """What any teacher of this pair's student needs to read."""
    return Reader(pair.vocab, pair.pad_id, pair.device)


def batch_of(pair: Pair, sequences: Sequences) -> ScoreBatch:
    """The sequences laid out for the student."""
    return reader_of(pair).batch(sequences, pair.pairs_per_token)


def student_pieces(
    pair: Pair, hidden: Hidden, temperature: float
) -> Iterator[tuple[slice, Tensor]]:
    """Tokens, and the student's log-probabilities (n, V) of them, a piece at a time."""
    for cut in spans(len(hidden.states), vocab=pair.vocab):
        with pair.computing():
            logits = logits_of(pair.student, hidden.piece(cut), vocab=pair.vocab)
        yield cut, divergences.log_probs(logits, temperature)


@torch.no_grad()
def measure(student: Tensor, targets: Tensor, view: View | None, top_k: int) -> Measures:
    """All recorded quantities from log-probabilities (N, V), ids (N,) and the teacher's view."""
    student = student.detach()
    k = min(top_k, student.shape[-1])
    measures = Measures(
        student_logprobs=_floats(divergences.at(student, targets)),
        student_entropy=_floats(divergences.entropy(student)),
        student_topk=_top(student, view.full if view else None, k) if k else None,
    )
    if view is None:
        return measures
    measures = replace(
        measures, teacher_logprobs=_floats(view.at), teacher_rank=view.rank.cpu().numpy()
    )
    return (
        _judged_in_part(measures, student, view, k)
        if view.full is None
        else replace(
            measures,
            reverse_kl=_floats(divergences.reverse_kl(student, view.full)),
            teacher_entropy=_floats(divergences.entropy(view.full)),
            same_top=(student.argmax(-1) == view.full.argmax(-1)).cpu().numpy(),
            teacher_topk=_top(view.full, student, k) if k else None,
        )
    )


def _judged_in_part(measures: Measures, student: Tensor, view: View, top_k: int) -> Measures:
    """By a teacher that gives only its likeliest tokens."""
    if view.top_ids is None or view.top is None:
        return measures
    ids, top = view.top_ids[:, :top_k], view.top[:, :top_k]
    tail = (1 - top.exp().sum(-1)).clamp(min=0)
    return replace(
        measures,
        same_top=(student.argmax(-1) == view.top_ids[:, 0]).cpu().numpy(),
        teacher_topk=TopK(
            ids.cpu().numpy(), _floats(top), _floats(student.gather(-1, ids)), _floats(tail)
        )
        if top_k
        else None,
    )


def joined(parts: Sequence[Measures]) -> Measures:
    """Pieces of one batch, one after the other."""

    def column(name: str) -> Any:
        values = [getattr(p, name) for p in parts]
        if values[0] is None or len(values) == 1:
            return values[0]
        if isinstance(values[0], TopK):
            return _each(lambda name: [getattr(v, name) for v in values], np.concatenate)
        return np.concatenate(values)

    return Measures(**{f.name: column(f.name) for f in fields(Measures)})


def records(
    measures: Measures,
    completions: list[Ints],
    *,
    sampler: Sequence[Floats | None] | None = None,
    advantages: Floats | None = None,
    mask: Floats | None = None,
) -> list[TokenRecord]:
    """Cuts the N tokens into one record a rollout; their lengths must sum to N."""
    measured, total = len(measures.student_logprobs), sum(map(len, completions))
    if measured != total:
        raise ValueError(f"measured {measured} tokens for completions of {total} tokens")
    columns = {name: getattr(measures, name) for name in MEASURED} | {"advantages": advantages}
    columns["mask"] = np.ones(total, np.float32) if mask is None else mask
    result, first = [], 0
    for i, ids in enumerate(completions):
        span = slice(first, first + len(ids))
        first += len(ids)
        result.append(
            TokenRecord(
                completion_ids=ids,
                sampler_logprobs=None if sampler is None else sampler[i],
                student_topk=_cut(measures.student_topk, span),
                teacher_topk=_cut(measures.teacher_topk, span),
                **{k: None if v is None else v[span] for k, v in columns.items()},
            )
        )
    return result


def _floats(values: Tensor) -> Floats:
    return values.float().cpu().numpy()


def _top(model: Tensor, other: Tensor | None, k: int) -> TopK:
    logprobs, ids = model.topk(k, dim=-1)
    tail = (
        torch.zeros_like(logprobs[:, 0])
        if k == model.shape[-1]
        else divergences.tail_log_prob(model, ids).exp()
    )
    others = None if other is None else _floats(other.gather(-1, ids))
    return TopK(ids.cpu().numpy(), _floats(logprobs), others, _floats(tail))


def _cut(top: TopK | None, span: slice) -> TopK | None:
    if top is None:
        return None
    return _each(lambda name: [getattr(top, name)], lambda parts: parts[0][span])


def _each(parts: Callable[[str], list[Any]], make: Callable[[list[Any]], Any]) -> TopK:
    """A TopK whose every field is made of parts of that field; None stays None."""
    made: dict[str, Any] = {}
    for f in fields(TopK):
        values = parts(f.name)
        made[f.name] = None if values[0] is None else make(values)
    return TopK(**made)
