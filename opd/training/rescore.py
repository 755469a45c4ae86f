"""Scoring completions that somebody else wrote: token records without training."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from opd.data.chats import rendered_chat
from opd.errors import ErrorKind, UserError
from opd.interchange.jsonl import OWN_IDS
from opd.interchange.trl import Chat, Message
from opd.models.batches import Sequences
from opd.models.encoding import continuation, prompt_ids, split_end
from opd.models.load import Pair, context_of
from opd.teachers.end_token import EndToken
from opd.training.scoring import Scoring, score
from opd.types import Ints, Rollout, TokenRecord

CHUNK = 256  # rollouts in memory at once


def score_rollouts(
    pair: Pair,
    rollouts: Iterable[Rollout],
    *,
    temperature: float | None,
    top_k: int,
    end: EndToken | None = None,
    teacher: str | None = None,
) -> Iterator[Rollout]:
    """Each rollout with its record as both models find it; its mask, and what the sampler said,
    are kept.

    A rollout without token ids of a tokenizer is tokenized, as a text that continues its prompt,
    and ends once with the id that ends a message where its finish reason is "stop". Without
    `temperature`, each is scored at its own. The teacher is shown `end` in place of the student's
    stop ids, and reads the student's prompt; `teacher` is its name. Raises UserError for ids
    outside the shared vocabulary and for sequences longer than a model's context.
    """
    context = min(context_of(pair.student), context_of(pair.teacher))
    source = enumerate(rollouts, 1)
    while chunk := list(islice(source, CHUNK)):
        ready = [_ready(pair, r, temperature, number, context) for number, r in chunk]
        for t in sorted({r.temperature for r in ready}):
            rows = [i for i, r in enumerate(ready) if r.temperature == t]
            whole = Sequences(
                [ready[i].prompt_ids.tolist() for i in rows],
                [ready[i].record.completion_ids for i in rows],
            )
            for i, record in zip(rows, score(pair, whole, Scoring(t, top_k), end), strict=True):
                given = ready[i].record
                mask = record.mask if given.mask is None else given.mask
                kept = replace(record, sampler_logprobs=given.sampler_logprobs, mask=mask)
                ready[i] = replace(
                    ready[i],
                    record=kept,
                    teacher_end=end.text if end else None,
                    teacher=teacher,
                    teacher_prompt=None,
                )
        yield from ready


def _ready(
    pair: Pair, rollout: Rollout, temperature: float | None, number: int, context: int
) -> Rollout:
    where = f"rollout {number} (group {rollout.group}, sample {rollout.sample})"
    tokenizer = pair.tokenizer
    prompt = _tokenizer_ids(rollout.prompt_ids)
    if not prompt:
        prompt = list(prompt_ids(tokenizer, [rollout.prompt], chat=False)[0])
    ids = _tokenizer_ids(rollout.record.completion_ids)
    record = rollout.record
    if not ids:
        before = rollout.prompt or tokenizer.decode(prompt)
        ids = continuation(tokenizer, before, rollout.completion).ids
        if rollout.finish_reason == "stop" and ids:
            body, end = split_end(tokenizer, ids, pair.eos_ids)
            ids = [*body, pair.end_id if end is None else end]
        record = TokenRecord(np.asarray(ids, np.int64))  # what was said of other tokens is not kept
    if not prompt or not ids:
        raise UserError(
            f"the {'prompt' if not prompt else 'completion'} has no tokens",
            where=where,
            kind=ErrorKind.BAD_DATA,
        )
    largest = max(*prompt, *ids)
    if largest >= pair.vocab:
        raise UserError(
            f"token id {largest} is outside the models' {pair.vocab} shared ids",
            where=where,
            kind=ErrorKind.BAD_DATA,
        )
    if len(prompt) + len(ids) > context:
        raise UserError(
            f"has {len(prompt) + len(ids)} tokens; the models' context is {context}",
            where=where,
            kind=ErrorKind.BAD_DATA,
        )
    chosen = temperature if temperature is not None else rollout.temperature or 1.0
    decoded = tokenizer.decode
    return replace(
        rollout,
        record=record,
        temperature=chosen,
        prompt_ids=np.asarray(prompt, np.int64),
        prompt=rollout.prompt or decoded(prompt),
        completion=rollout.completion or decoded(ids, skip_special_tokens=True),
    )


def chat_of(tokenizer: Any) -> Chat:
    """Renders the messages of a prompt by the tokenizer's chat template, up to the answer."""

    def render(messages: Sequence[Message]) -> tuple[str, list[int] | None]:
        text = rendered_chat(tokenizer, messages, where="--student")
        return text, list(prompt_ids(tokenizer, [text], chat=True)[0])

    return render


def _tokenizer_ids(ids: Ints) -> list[int]:
    """The ids; none where they are not a tokenizer's but stand for texts."""
    return [] if (ids >= OWN_IDS).any() else [int(i) for i in ids]
