"""Student and teacher read the same tokens: everything that is recorded of each of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opd.config.run import RunConfig
from opd.loss import divergences
from opd.models.batches import ScoreBatch, Sequences, micro_batches, units
from opd.models.forward import Hidden, completion_hidden, logits_of, piece_values, spans, wide
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
    "advantages",
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
        return cls(temperature or 1.0, config.records.top_k, config.optimizer.tokens_per_pass)


@dataclass(frozen=True)
class Measures:
    """Per-token quantities of N tokens, on the host; the top-k is (N, k).

    What the teacher did not say is None. `advantages` are the objective's, where it has some.
    """

    student_logprobs: Floats
    student_entropy: Floats
    student_topk: TopK | None = None
    teacher_logprobs: Floats | None = None
    reverse_kl: Floats | None = None
    teacher_entropy: Floats | None = None
    teacher_rank: Ints | None = None
    same_top: np.ndarray | None = None  # bool: is the same token the likeliest to both?
    teacher_topk: TopK | None = None
    advantages: Floats | None = None


Columns = dict[str, Tensor]  # fields of Measures, or of their TopK: (N,), (N, k); on the device


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
    pair: Pair | None = None,
) -> list[TokenRecord]:
    """Both models' opinions of the completions, each prompt's by its own teacher; no training.

    `pair` has the student that reads, where it is not the router's.
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
    return _scored(pair or router.pair, whole, settings, readings, sampler)


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
        parts = []
        with pair.casting_once():
            with pair.computing():
                hidden = completion_hidden(pair.student, batch)
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
    for cut, logits in student_logits(pair, hidden):
        yield cut, divergences.log_probs(wide(logits), temperature)


def student_logits(pair: Pair, hidden: Hidden) -> Iterator[tuple[slice, Tensor]]:
    """Tokens, and the student's logits (n, V) of them as it computes them, a piece at a time."""
    limit = piece_values(pair.vocab, hidden.states.device)
    for cut in spans(len(hidden.states), vocab=pair.vocab, limit=limit):
        with pair.computing():
            logits = logits_of(pair.student, hidden.piece(cut), vocab=pair.vocab, widened=False)
        yield cut, logits


@torch.no_grad()
def measure(
    student: Tensor,
    targets: Tensor,
    view: View | None,
    top_k: int,
    reverse_kl: Tensor | None = None,
) -> Columns:
    """All recorded quantities from log-probabilities (N, V), ids (N,) and the teacher's view.

    They stay on the device, so that nobody waits; `reverse_kl` (N,) is theirs, where it is known.
    """
    student = student.detach()
    k = min(top_k, student.shape[-1])
    columns = {"student_logprobs": divergences.at(student, targets)}
    columns |= _distribution("student", student, view.full if view else None, k)
    if view is None:
        return columns
    columns["teacher_logprobs"] = view.at
    if view.rank is not None:
        columns["teacher_rank"] = view.rank
    if view.full is None:
        return columns | _judged_in_part(student, view, k)
    columns |= _distribution("teacher", view.full, student, k)
    columns["reverse_kl"] = (
        divergences.reverse_kl(student, view.full) if reverse_kl is None else reverse_kl
    )
    columns["same_top"] = student.argmax(-1) == view.full.argmax(-1)
    return columns


def _distribution(name: str, logp: Tensor, other: Tensor | None, k: int) -> Columns:
    """A model's entropy and its k likeliest tokens; exp(log-probabilities) is made only once."""
    probabilities = logp.exp()
    columns = {f"{name}_entropy": divergences.entropy(logp, probabilities)}
    if k:
        top, ids = logp.topk(k, dim=-1)
        tail = probabilities.scatter_(-1, ids, 0.0).sum(-1)  # not 1 − …, which loses a small tail
        columns |= _top(name, ids, top, None if other is None else other.gather(-1, ids), tail)
    return columns


def _judged_in_part(student: Tensor, view: View, top_k: int) -> Columns:
    """By a teacher that gives only its likeliest tokens."""
    if view.top_ids is None or view.top is None:
        return {}
    columns = {"same_top": student.argmax(-1) == view.top_ids[:, 0]}
    if top_k:
        ids, top = view.top_ids[:, :top_k], view.top[:, :top_k]
        tail = (1 - top.exp().sum(-1)).clamp(min=0)
        columns |= _top("teacher", ids, top, student.gather(-1, ids), tail)
    return columns


def _top(name: str, ids: Tensor, top: Tensor, other: Tensor | None, tail: Tensor) -> Columns:
    """The fields of a TopK, by the measure's name and theirs."""
    values = {"ids": ids, "logprobs": top, "other_logprobs": other, "tail_mass": tail}
    return {f"{name}_topk.{k}": v for k, v in values.items() if v is not None}


def joined(parts: Sequence[Columns]) -> Measures:
    """Pieces of one batch, one after the other, on the host: it waits once a type of numbers."""
    columns = {name: torch.cat([p[name] for p in parts]) for name in parts[0]}
    values: dict[str, Any] = {}
    for dtype in (torch.float32, torch.int64):
        named = {
            n: c for n, c in columns.items() if c.is_floating_point() == dtype.is_floating_point
        }
        if not named:
            continue
        flat = torch.cat([c.to(dtype).flatten() for c in named.values()]).cpu().numpy()
        ends = np.cumsum([c.numel() for c in named.values()])[:-1]
        for (name, column), part in zip(named.items(), np.split(flat, ends), strict=True):
            values[name] = part.reshape(column.shape)
    for name in ("student_topk", "teacher_topk"):
        fields_of = {f.name: values.pop(f"{name}.{f.name}", None) for f in fields(TopK)}
        values[name] = TopK(**fields_of) if fields_of["ids"] is not None else None
    if "same_top" in values:
        values["same_top"] = values["same_top"].astype(bool)
    return Measures(**values)


def records(
    measures: Measures,
    completions: list[Ints],
    *,
    sampler: Sequence[Floats | None] | None = None,
    mask: Floats | None = None,
) -> list[TokenRecord]:
    """Cuts the N tokens into one record a rollout; their lengths must sum to N."""
    measured, total = len(measures.student_logprobs), sum(map(len, completions))
    if measured != total:
        raise ValueError(f"measured {measured} tokens for completions of {total} tokens")
    columns = {name: getattr(measures, name) for name in MEASURED}
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


def _cut(top: TopK | None, span: slice) -> TopK | None:
    if top is None:
        return None
    columns: dict[str, Any] = {f.name: getattr(top, f.name) for f in fields(TopK)}
    cut: dict[str, Any] = {name: None if v is None else v[span] for name, v in columns.items()}
    return TopK(**cut)
