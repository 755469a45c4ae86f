"""Student and teacher read the same tokens: everything that is recorded of each of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opd import divergences
from opd.align import Sequences, completion_logits, micro_batches, score_batch
from opd.config import RunConfig
from opd.models import Pair
from opd.types import Floats, Ints, TokenRecord, TopK


@dataclass(frozen=True)
class Scoring:
    """How completions are scored."""

    temperature: float = 1.0
    top_k: int = 8
    micro_batch_tokens: int = 8192

    @classmethod
    def of(cls, config: RunConfig, temperature: float) -> "Scoring":
        return cls(temperature, config.records.top_k, config.optimizer.micro_batch_tokens)


@dataclass(frozen=True)
class Measures:
    """Per-token quantities of N tokens, detached, on the host; the top-k is (N, k)."""

    student_logprobs: Floats
    teacher_logprobs: Floats
    reverse_kl: Floats
    student_entropy: Floats
    teacher_entropy: Floats
    teacher_rank: Ints
    same_top: np.ndarray  # bool: do both models like the same token best?
    student_topk: TopK | None
    teacher_topk: TopK | None


@torch.no_grad()
def score(
    pair: Pair, whole: Sequences, settings: Scoring, sampler: Sequence[Floats] | None = None
) -> list[TokenRecord]:
    """Teacher-forces given completions through both models; one record a sequence, no training."""
    found: dict[int, TokenRecord] = {}
    for rows in micro_batches(whole, max_tokens=settings.micro_batch_tokens):
        batch = score_batch(whole.take(rows), pad_id=pair.pad_id, device=pair.device)
        student, teacher = (
            divergences.log_probs(
                completion_logits(model, batch, vocab=pair.vocab), settings.temperature
            )
            for model in (pair.student, pair.teacher)
        )
        measures = measure(student, teacher, batch.targets, settings.top_k)
        found |= zip(
            rows,
            records(
                measures,
                [np.asarray(whole.completions[i], np.int64) for i in rows],
                sampler=None if sampler is None else [sampler[i] for i in rows],
            ),
            strict=True,
        )
    return [found[i] for i in range(len(whole))]


@torch.no_grad()
def measure(student: Tensor, teacher: Tensor, targets: Tensor, top_k: int) -> Measures:
    """All recorded quantities from log-probabilities (N, V) and the sampled ids (N,)."""
    student, teacher = student.detach(), teacher.detach()
    k = min(top_k, student.shape[-1])
    return Measures(
        student_logprobs=_floats(divergences.at(student, targets)),
        teacher_logprobs=_floats(divergences.at(teacher, targets)),
        reverse_kl=_floats(divergences.reverse_kl(student, teacher)),
        student_entropy=_floats(divergences.entropy(student)),
        teacher_entropy=_floats(divergences.entropy(teacher)),
        teacher_rank=divergences.rank(teacher, targets).cpu().numpy(),
        same_top=(student.argmax(-1) == teacher.argmax(-1)).cpu().numpy(),
        student_topk=_top(student, teacher, k) if k else None,
        teacher_topk=_top(teacher, student, k) if k else None,
    )


def records(
    measures: Measures,
    completions: list[Ints],
    *,
    sampler: list[Floats] | None = None,
    advantages: Floats | None = None,
    mask: Floats | None = None,
) -> list[TokenRecord]:
    """Cuts the N tokens into one record a rollout; their lengths must sum to N."""
    found, total = len(measures.reverse_kl), sum(map(len, completions))
    if found != total:
        raise ValueError(f"measured {found} tokens for completions of {total} tokens")
    result, first = [], 0
    for i, ids in enumerate(completions):
        span = slice(first, first + len(ids))
        first += len(ids)
        result.append(
            TokenRecord(
                completion_ids=ids,
                sampler_logprobs=None if sampler is None else sampler[i],
                student_logprobs=measures.student_logprobs[span],
                teacher_logprobs=measures.teacher_logprobs[span],
                reverse_kl=measures.reverse_kl[span],
                student_entropy=measures.student_entropy[span],
                teacher_entropy=measures.teacher_entropy[span],
                teacher_rank=measures.teacher_rank[span],
                advantages=None if advantages is None else advantages[span],
                mask=np.ones(len(ids), np.float32) if mask is None else mask[span],
                student_topk=_cut(measures.student_topk, span),
                teacher_topk=_cut(measures.teacher_topk, span),
            )
        )
    return result


def _floats(values: Tensor) -> Floats:
    return values.float().cpu().numpy()


def _top(own: Tensor, other: Tensor, k: int) -> TopK:
    logprobs, ids = own.topk(k, dim=-1)
    tail = (
        torch.zeros_like(logprobs[:, 0])
        if k == own.shape[-1]
        else divergences.tail_log_prob(own, ids).exp()
    )
    return TopK(ids.cpu().numpy(), _floats(logprobs), _floats(other.gather(-1, ids)), _floats(tail))


def _cut(top: TopK | None, span: slice) -> TopK | None:
    if top is None:
        return None
    return TopK(top.ids[span], top.logprobs[span], top.other_logprobs[span], top.tail_mass[span])
