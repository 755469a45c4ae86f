"""What if another token had stood there: student or teacher go on from it, and both score it.

A branch is a completion of the same prompt: what was written up to a position, another choice
there, and what one of the models writes after it. Only the tokens from the position on count in
its sums (mask 1): what comes before is its parent's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opd.config.run import RunConfig
from opd.data.prompts import Prompt, load_prompts
from opd.errors import ErrorKind, UserError
from opd.grading.graders import grade
from opd.models.batches import Sequences
from opd.models.load import Pair, context_of, declared_stops
from opd.sampling.sample import NEVER, Limits, Request, Sample, sample
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import read
from opd.training.loading import LoadedModels
from opd.training.scoring import Scoring, scored
from opd.types import Author, Floats, Ints, Rollout, TokenRecord

SEED = 3_000_000_000  # in a continuation's key: its random numbers are its own
AUTHORS: tuple[Author, ...] = ("student", "teacher")
TOP_K = 8  # alternatives of each model, where the run itself keeps none


@dataclass(frozen=True)
class BranchPoint:
    """Where a branch leaves its parent: `kept` ids stand before it, `chosen` ids take its place."""

    prompt: Prompt
    kept: tuple[int, ...]
    chosen: tuple[int, ...]

    @property
    def prefix(self) -> tuple[int, ...]:
        return (*self.kept, *self.chosen)


@dataclass(frozen=True)
class ContinuationSettings:
    """How to go on: `samples` continuations by each of `authors`; temperature 0 is greedy."""

    authors: tuple[Author, ...]
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int


@dataclass(frozen=True)
class Continuation:
    """A whole completion, prefix included, and who wrote its end."""

    author: Author
    number: int
    ids: Ints
    finish_reason: Any  # FinishReason


def chosen_ids(models: LoadedModels, token: int | None, text: str | None) -> tuple[int, ...]:
    """The ids of another choice, a token's or a text's. Raises UserError naming the limit."""
    pair = models.pair
    if token is not None:
        if not 0 <= token < pair.vocab:
            raise UserError(
                f"id {token} is outside the models' {pair.vocab} shared ids (0 to "
                f"{pair.vocab - 1})",
                where="token",
            )
        return (token,)
    ids = tuple(pair.tokenizer(text or "", add_special_tokens=False)["input_ids"])
    if not ids:
        raise UserError("the text has no tokens", where="text")
    if any(i >= pair.vocab for i in ids):
        raise UserError(
            f"the text has id {max(ids)}, outside the models' {pair.vocab} shared ids", where="text"
        )
    return _up_to_end(ids, pair.eos_ids)


def prompt_of(models: LoadedModels, config: RunConfig, stored: Prompt) -> Prompt:
    """The stored prompt; where the teacher reads it by the row's fields, the data's own one.

    Raises UserError where the data has no such prompt any more.
    """
    sections = [config.teacher, *config.teacher.routes.values()]
    if config.teacher.route_by is None and not any(s.prompt or s.system for s in sections):
        return stored
    pair = models.pair
    found = load_prompts(config, pair.tokenizer, context_of(pair.student))
    suites = [p for suite in found.suites.values() for p in suite.prompts]
    for prompt in (*found.train, *found.held_out, *found.probe, *suites):
        if prompt.number == stored.number and prompt.ids == stored.ids:
            return prompt
    raise UserError(
        "the coach reads this prompt with fields of its row, and the data no longer has that row",
        where="prompts.source",
        kind=ErrorKind.BAD_DATA,
    )


def continued(
    models: LoadedModels,
    place: BranchPoint,
    wish: ContinuationSettings,
    stop: Callable[[], bool] = NEVER,
) -> list[Continuation]:
    """Completions that go on from the place, author after author. `stop` is asked at every token.

    Raises UserError for what the context does not hold and for a teacher that cannot write;
    Stopped.
    """
    return [c for a in wish.authors for c in _by(models, a, place, wish, stop)]


def writer_of(models: LoadedModels, author: Author, prompt: Prompt | None) -> tuple[Pair, Any]:
    """The pair whose `student` writes, and the teacher in whose state it does so (None: itself).

    Without a prompt, the first teacher of the router. Raises UserError without one that can write.
    """
    if author == "student":
        return models.pair, None
    teacher = teacher_of(models, prompt)
    if not isinstance(teacher, LocalTeacher):
        raise UserError(
            "this run has no coach"
            if teacher is None
            else "the coach is behind a server that judges and does not write; let the student go "
            "on",
            where="authors",
            kind=ErrorKind.NO_TEACHER,
        )
    stops = dict.fromkeys([*models.pair.eos_ids, *declared_stops(teacher.model)])
    return replace(models.pair, student=teacher.model, eos_ids=tuple(stops)), teacher


def teacher_of(models: LoadedModels, prompt: Prompt | None) -> Any:
    """Who judges this prompt; without a prompt the first of the router; None where nobody does."""
    teachers = models.router.teachers
    if prompt is None or not teachers:
        return next(iter(teachers.values()), None)
    return teachers.get(models.router.route(prompt))


def unhinted(models: LoadedModels) -> LoadedModels:
    """The same models where the first teacher reads what the student reads: no hints, no routes.

    For prompts that are no row of the data.
    """
    router = models.router
    plain: dict[str, Any] = {"prompt": None, "system": None, "route_by": None, "routes": {}}
    config = router.config.model_copy(
        update={"teacher": router.config.teacher.model_copy(update=plain)}
    )
    first = next(iter(router.teachers.values()), None)
    teachers = {} if first is None else {"": first}
    return replace(models, router=replace(router, teachers=teachers, config=config))


def judged(
    models: LoadedModels,
    config: RunConfig,
    prompt: Prompt,
    completions: Sequence[Ints],
    temperature: float,
) -> list[TokenRecord]:
    """Both models' record of completions of one prompt; exact, as evaluation makes it."""
    whole = Sequences([prompt.ids] * len(completions), completions)
    settings = Scoring.of(config, temperature or 1.0)
    settings = replace(settings, top_k=settings.top_k or TOP_K)
    pair = models.pair
    readings = read(
        models.router,
        [prompt] * len(completions),
        whole,
        temperature=settings.temperature,
        max_tokens=settings.micro_batch_tokens,
        pairs_per_token=pair.pairs_per_token,
    )
    return scored(pair, whole, settings, readings)


def branches(
    models: LoadedModels,
    config: RunConfig,
    place: BranchPoint,
    found: Sequence[Continuation],
    *,
    step: int,
    temperature: float,
) -> list[Rollout]:
    """Rollouts of kind "branch" with their records; `step` is that of the student's checkpoint."""
    records = judged(models, config, place.prompt, [c.ids for c in found], temperature)
    texts = models.pair.tokenizer.batch_decode([c.ids for c in found], skip_special_tokens=True)
    prompt = place.prompt
    return [
        Rollout(
            step=step,
            kind="branch",
            group=prompt.number,
            sample=c.number,
            prompt=prompt.text,
            prompt_ids=np.asarray(prompt.ids, np.int64),
            completion=text,
            finish_reason=c.finish_reason,
            temperature=temperature or 1.0,
            record=replace(record, mask=_from(len(place.kept), len(c.ids))),
            reward=grade(config.prompts, text, prompt.answer),
            answer=prompt.answer,
            author=c.author,
        )
        for c, record, text in zip(found, records, texts, strict=True)
    ]


def check_room(pair: Pair, tokens: int, max_new_tokens: int) -> None:
    """Raises UserError where a model's context does not hold what is to be written."""
    room = context_of(pair.student) - tokens
    if max_new_tokens > room:
        raise UserError(
            f"{max_new_tokens} is too much: {tokens} tokens stand before it, and the model's "
            f"context leaves room for {max(room, 0)}",
            where="max_new_tokens",
        )


def _by(
    models: LoadedModels,
    author: Author,
    place: BranchPoint,
    wish: ContinuationSettings,
    stop: Callable[[], bool],
) -> list[Continuation]:
    """The continuations of one author. A choice that ends the answer is all there is."""
    pair, teacher = writer_of(models, author, place.prompt)
    count = wish.samples if wish.temperature else 1
    before = np.asarray(place.prefix, np.int64)
    if place.chosen[-1] in pair.eos_ids:
        return [Continuation(author, 0, before, "stop")]
    prompt_ids = place.prompt.ids if teacher is None else models.router.prompt_ids(place.prompt)
    start = (*prompt_ids, *place.prefix)
    for reader, read_ids in ((models.pair, (*place.prompt.ids, *place.prefix)), (pair, start)):
        check_room(reader, len(read_ids), wish.max_new_tokens)
    place_key = AUTHORS.index(author) * SEED + len(place.kept)
    requests = [Request(start, (wish.seed, SEED, place_key, n)) for n in range(count)]
    limits = Limits(wish.max_new_tokens, wish.temperature, count)
    found = _written(models, pair, teacher, requests, limits, stop)
    return [
        Continuation(author, n, np.concatenate([before, s.completion_ids]), s.finish_reason)
        for n, s in enumerate(found)
    ]


def _written(
    models: LoadedModels,
    pair: Pair,
    teacher: Any,
    requests: Sequence[Request],
    limits: Limits,
    stop: Callable[[], bool],
) -> list[Sample]:
    if teacher is None:
        with models.pair.computing():
            return sample(pair, requests, limits, stop)
    with teacher.present(), teacher.state():
        return sample(pair, requests, limits, stop)


def _from(position: int, count: int) -> Floats:
    mask = np.ones(count, np.float32)
    mask[:position] = 0
    return mask


def _up_to_end(ids: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, ...]:
    first = next((n for n, i in enumerate(ids) if i in ends), len(ids))
    return ids[: first + 1]
