"""From prompts to graded completions: written by the student, by a teacher, or given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opd.config.data import DataConfig
from opd.config.run import RunConfig
from opd.data.prompts import Prompt
from opd.errors import ErrorKind, UserError
from opd.grading.graders import grade
from opd.models.batches import Sequences
from opd.models.load import Pair, declared_stops
from opd.sampling.sample import Limits, Request, Sample, sample, uniforms
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import TeacherRouter
from opd.types import Author

EVALUATION = 1_000_000_000  # added to the step in an evaluation's seed: its samples are its own
TEACHER = 2_000_000_000  # likewise for what the teacher writes, and for who writes
Stop = Callable[[], bool]


@dataclass(frozen=True)
class Completion:
    """One completion of one prompt, before anybody scored its tokens."""

    prompt: Prompt
    number: int  # of this completion within its group
    sample: Sample
    text: str
    reward: float | None
    author: Author = "student"


@dataclass(frozen=True)
class Writer:
    """Who writes completions: the pair's student, and the teachers where they write too."""

    pair: Pair
    config: RunConfig
    router: TeacherRouter | None = None


def write(writer: Writer, prompts: Sequence[Prompt], *, step: int, stop: Stop) -> list[Completion]:
    """`group_size` completions of each prompt, as training sees them; one where they are given."""
    config = writer.config
    if config.author == "given":
        return [_given(writer, p) for p in prompts]
    settings = config.sampling
    limits = Limits(settings.max_new_tokens, settings.temperature, settings.batch_size)
    jobs = _numbered(prompts, settings.group_size)
    by_teacher = {p.number for p in prompts if _teacher_writes(config, step, p)}
    own = [(p, g) for p, g in jobs if p.number not in by_teacher]
    theirs = [(p, g) for p, g in jobs if p.number in by_teacher]
    found = {
        (w.prompt.number, w.number): w
        for w in (
            *(_write(writer, own, limits, step, stop) if own else ()),
            *(_teachers_write(writer, theirs, limits, step, stop) if theirs else ()),
        )
    }
    return [found[p.number, g] for p, g in jobs]


def write_evaluation(
    writer: Writer,
    prompts: Sequence[Prompt],
    *,
    temperature: float,
    stop: Stop,
    data: DataConfig | None = None,
) -> list[Completion]:
    """Completions of held-out prompts; the same random numbers at every evaluation.

    `samples` of each above temperature 0, one at 0; graded as `data` says, else as the prompts.
    """
    config = writer.config
    limits = Limits(config.sampling.max_new_tokens, temperature, config.sampling.batch_size)
    count = config.evaluation.samples if temperature else 1
    jobs = [(p, g) for p in prompts for g in range(count)]
    return _write(writer, jobs, limits, EVALUATION, stop, data)


def sequences(written: Sequence[Completion]) -> Sequences:
    return Sequences([w.prompt.ids for w in written], [w.sample.completion_ids for w in written])


def _numbered(prompts: Sequence[Prompt], size: int) -> list[tuple[Prompt, int]]:
    """A group of numbered completions for each prompt; one drawn twice goes on counting."""
    drawn: dict[int, int] = {}
    jobs = []
    for prompt in prompts:
        first = drawn.get(prompt.number, 0)
        jobs += [(prompt, g) for g in range(first, first + size)]
        drawn[prompt.number] = first + size
    return jobs


def _teacher_writes(config: RunConfig, step: int, prompt: Prompt) -> bool:
    """Decided by (seed, step, prompt) alone, for the whole group."""
    if config.author == "teacher":
        return True
    (draw,) = uniforms((config.seed, TEACHER, step, prompt.number), 1)
    return bool(draw < config.sampling.teacher_share)


def _teachers_write(
    writer: Writer, jobs: Sequence[tuple[Prompt, int]], limits: Limits, step: int, stop: Stop
) -> list[Completion]:
    router = writer.router
    assert router is not None, "the configuration lets only local teachers write"
    written: list[Completion] = []
    for route in sorted({router.route(p) for p, _ in jobs}):
        teacher = router.teachers[route]
        assert isinstance(teacher, LocalTeacher)
        mine = [(p, g) for p, g in jobs if router.route(p) == route]
        requests = [
            Request(router.prompt_ids(p), (writer.config.seed, TEACHER + step, p.number, g))
            for p, g in mine
        ]
        stops = dict.fromkeys([*writer.pair.eos_ids, *declared_stops(teacher.model)])
        pair = replace(writer.pair, student=teacher.model, eos_ids=tuple(stops))
        with teacher.present(), teacher.state():
            samples = sample(pair, requests, limits, stop)
        written += _graded(writer, mine, samples, "teacher")
    return written


def _write(
    writer: Writer,
    jobs: Sequence[tuple[Prompt, int]],
    limits: Limits,
    step: int,
    stop: Stop,
    data: DataConfig | None = None,
) -> list[Completion]:
    requests = [Request(p.ids, (writer.config.seed, step, p.number, g)) for p, g in jobs]
    with writer.pair.computing():
        samples = sample(writer.pair, requests, limits, stop)
    return _graded(writer, jobs, samples, "student", data)


def _graded(
    writer: Writer,
    jobs: Sequence[tuple[Prompt, int]],
    samples: Sequence[Sample],
    author: Author,
    data: DataConfig | None = None,
) -> list[Completion]:
    texts = writer.pair.tokenizer.batch_decode(
        [s.completion_ids for s in samples], skip_special_tokens=True
    )
    grading = data or writer.config.prompts
    return [
        Completion(p, g, s, text, grade(grading, text, p.answer), author)
        for (p, g), s, text in zip(jobs, samples, texts, strict=True)
    ]


def _given(writer: Writer, prompt: Prompt) -> Completion:
    """The row's own completion, ended by the student's EOS, cut to the limit of length."""
    tokenizer: Any = writer.pair.tokenizer
    text = prompt.completion or ""
    limit = writer.config.sampling.max_new_tokens
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    if not ids:
        raise UserError(
            f"prompt {prompt.number} has an empty completion; leave such rows out",
            where="prompts.columns.completion",
            kind=ErrorKind.BAD_DATA,
        )
    whole = [*ids, writer.pair.eos_ids[0]]
    given = Sample(
        np.asarray(whole[:limit], np.int64), None, "stop" if len(whole) <= limit else "length"
    )
    return Completion(
        prompt, 0, given, text, grade(writer.config.prompts, text, prompt.answer), "given"
    )
