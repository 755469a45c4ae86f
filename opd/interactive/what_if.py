"""What if another token had stood there: student or teacher continue from it, both score it.

A branch is a completion of the same prompt: what was written up to a position, another choice
there, and what one of the models writes after it. Only the tokens from the position on count in
its sums (mask 1): what comes before is its parent's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from opd.data.prompts import Prompt, load_prompts
from opd.errors import ErrorKind, UserError
from opd.models.encoding import continuation
from opd.models.load import context_of
from opd.sampling.sample import NEVER, Limits, Request, Sample
from opd.sampling.samplers import LocalSampler, Sampler
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import TeacherRouter
from opd.training.loading import LoadedModels
from opd.training.records import as_rollouts
from opd.training.rollouts import Completion, graded, sample_by
from opd.training.scoring import Scoring, score_completions
from opd.types import Author, Floats, Rollout

SEED = 3_000_000_000  # in a continuation's key: its random numbers are its own
AUTHORS: tuple[Author, ...] = ("student", "teacher")
TOP_K = 8  # alternatives of each model, where the run itself keeps none


@dataclass(frozen=True)
class BranchPoint:
    """Where a branch leaves its parent: `kept` ids stand before it, `chosen` ids come next."""

    prompt: Prompt
    kept: tuple[int, ...]
    chosen: tuple[int, ...]

    @property
    def prefix(self) -> tuple[int, ...]:
        return (*self.kept, *self.chosen)


@dataclass(frozen=True)
class ContinuationSettings:
    """`samples` continuations by each of `authors`; temperature 0 is greedy."""

    authors: tuple[Author, ...]
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int


def chosen_ids(
    models: LoadedModels, before: Sequence[int], token: int | None, text: str | None
) -> tuple[int, ...]:
    """The ids of another choice, a token's or a text's, as it continues the ids `before` it.

    Raises UserError naming the limit.
    """
    pair = models.pair
    if token is not None:
        if not 0 <= token < pair.vocab:
            raise UserError(
                f"id {token} is outside the models' {pair.vocab} shared ids (0 to "
                f"{pair.vocab - 1})",
                where="token",
            )
        return (token,)
    ids = tuple(continuation(pair.tokenizer, pair.tokenizer.decode(list(before)), text or "").ids)
    if not ids:
        raise UserError("the text has no tokens", where="text")
    if any(i >= pair.vocab for i in ids):
        raise UserError(
            f"the text has id {max(ids)}, outside the models' {pair.vocab} shared ids", where="text"
        )
    return _up_to_end(ids, pair.eos_ids)


def prompt_of(models: LoadedModels, stored: Prompt) -> Prompt:
    """The stored prompt; where the teacher reads it by the row's fields, the data's own one.

    Raises UserError where the data has no such prompt any more.
    """
    config, pair = models.config, models.pair
    hinted = any(t.prompt or t.system for t in config.teachers.values())
    if config.teacher.route_by is None and not hinted:
        return stored
    prompts = load_prompts(config, pair.tokenizer, models.router.context())
    suites = [p for suite in prompts.suites.values() for p in suite.prompts]
    for prompt in (*prompts.train, *prompts.held_out, *prompts.probe, *suites):
        if prompt.number == stored.number and prompt.ids == stored.ids:
            return prompt
    raise UserError(
        "the teacher reads this prompt with fields of its row, and the data no longer has that row",
        where="prompts.source",
        kind=ErrorKind.BAD_DATA,
    )


def continuations(
    models: LoadedModels,
    point: BranchPoint,
    settings: ContinuationSettings,
    stop: Callable[[], bool] = NEVER,
    sampler: Sampler | None = None,
) -> list[Completion]:
    """Whole completions, prefix included, author after author. `stop` is polled at every token;
    `sampler` writes what the student does, by default this process.

    Raises UserError for what the context does not hold and for a teacher that cannot write;
    Stopped.
    """
    student = sampler or LocalSampler(models.pair)
    return [c for a in settings.authors for c in _by(models, a, point, settings, stop, student)]


def writing_teacher(router: TeacherRouter, prompt: Prompt | None) -> LocalTeacher:
    """The teacher that reads this prompt (without one: the first), to write in its place.

    Raises UserError where there is none, or it is behind a server.
    """
    teacher = router.teacher(prompt)
    if not isinstance(teacher, LocalTeacher):
        raise UserError(
            "this run has no teacher"
            if teacher is None
            else "the teacher is behind a server, which scores and does not write; let the "
            "student continue",
            where="authors",
            kind=ErrorKind.NO_TEACHER,
        )
    return teacher


def branches(
    models: LoadedModels,
    completions: Sequence[Completion],
    *,
    step: int,
    temperature: float,
    kept: int = 0,
) -> list[Rollout]:
    """Rollouts of kind "branch", scored by both models exactly as an evaluation scores.

    `step` is that of the student's checkpoint; the first `kept` tokens do not count (mask 0).
    """
    settings = Scoring.of(models.config, temperature)
    settings = replace(settings, top_k=settings.top_k or TOP_K)
    records = [
        replace(record, mask=_from(kept, len(record)))
        for record in score_completions(models.router, completions, settings, with_sampler=False)
    ]
    rollouts = as_rollouts(
        models.router,
        completions,
        records,
        step=step,
        kind="branch",
        temperature=settings.temperature,
    )
    return [replace(rollout, data_row=None) for rollout in rollouts]  # their prompts have no row


def check_room(context: int, tokens: int, max_new_tokens: int) -> None:
    """Raises UserError where a model's context does not hold what is to be written."""
    room = context - tokens
    if max_new_tokens > room:
        raise UserError(
            f"{max_new_tokens} is too much: {tokens} tokens stand before it, and the model's "
            f"context leaves room for {max(room, 0)}",
            where="max_new_tokens",
        )


def _by(
    models: LoadedModels,
    author: Author,
    point: BranchPoint,
    settings: ContinuationSettings,
    stop: Callable[[], bool],
    student: Sampler,
) -> list[Completion]:
    """The continuations of one author. A choice that ends the answer is all there is."""
    prompt, prefix, pair = point.prompt, point.prefix, models.pair
    teacher = None if author == "student" else writing_teacher(models.router, prompt)
    writer = pair if teacher is None else teacher.as_student(pair)
    if point.chosen[-1] in writer.eos_ids:
        samples = [Sample(np.asarray(prefix, np.int64), None, "stop")]
    else:
        prompt_ids = prompt.ids if teacher is None else models.router.prompt_ids(prompt)
        start = (*prompt_ids, *prefix)
        read = len(prompt.ids) + len(prefix)
        check_room(models.router.context(), read, settings.max_new_tokens)
        check_room(context_of(writer.student), len(start), settings.max_new_tokens)
        count = settings.samples if settings.temperature else 1
        branch_key = AUTHORS.index(author) * SEED + len(point.kept)
        requests = [Request(start, (settings.seed, SEED, branch_key, n)) for n in range(count)]
        limits = Limits(settings.max_new_tokens, settings.temperature, count)
        written = (
            student.write(requests, limits, stop)
            if teacher is None
            else sample_by(teacher, pair, requests, limits, stop)
        )
        samples = [
            Sample(np.array([*prefix, *s.completion_ids], np.int64), None, s.finish_reason)
            for s in written
        ]
    jobs = [(prompt, n) for n in range(len(samples))]
    return graded(pair.tokenizer, models.config.prompts, jobs, samples, author)


def _from(position: int, count: int) -> Floats:
    mask = np.ones(count, np.float32)
    mask[:position] = 0
    return mask


def _up_to_end(ids: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, ...]:
    first = next((n for n, i in enumerate(ids) if i in ends), len(ids))
    return ids[: first + 1]
