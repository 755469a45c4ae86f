"""From prompts to graded completions: written by the student, by a teacher, or given."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from opd.config.data import DataConfig
from opd.config.run import RunConfig
from opd.data.prompts import Prompt
from opd.errors import ErrorKind, UserError
from opd.grading.final_answer import gradable_texts
from opd.grading.graders import grade
from opd.models.batches import Sequences
from opd.models.encoding import continuation, split_end, text_ids
from opd.models.load import Pair
from opd.models.stop_ids import led, reply_lead
from opd.ranks.group import ALONE, Ranks
from opd.sampling.ahead import AheadSampler
from opd.sampling.sample import Limits, Request, Sample, sample, uniforms
from opd.sampling.samplers import LocalSampler, Sampler, without_nan
from opd.teachers.local import LocalTeacher
from opd.teachers.routing import TeacherRouter
from opd.types import Author

EVALUATION = 1_000_000_000  # added to the step in an evaluation's seed: its samples are its own
TEACHER = 2_000_000_000  # likewise for what the teacher writes, and for who writes
# Rows from which on processors were seen to round a row's products whatever the number of rows.
ROUNDED_ALIKE = 4
Stop = Callable[[], bool]
Job = tuple[Prompt, int]  # a prompt, and the completion's number within its group


@dataclass(frozen=True)
class Completion:
    """One graded completion of one prompt, before anybody scored its tokens."""

    prompt: Prompt
    number: int  # of this completion within its group
    sample: Sample
    text: str
    reward: float | None
    author: Author = "student"


@dataclass(frozen=True)
class Writer:
    """Who writes completions: the pair's student, and the teachers where they write too.

    Each of several processes writes a share, and all have the whole.
    """

    pair: Pair
    config: RunConfig
    router: TeacherRouter | None = None
    ranks: Ranks = ALONE
    sampler: Sampler | None = None  # of the student's completions; None: this process


_Writing = Callable[[Writer, Sequence[Job], Limits, int, Stop], list[Sample]]


def write(writer: Writer, prompts: Sequence[Prompt], *, step: int, stop: Stop) -> list[Completion]:
    """`group_size` completions of each prompt, as training sees them; one where they are given.

    Raises Stopped, and UserError for a prompt that the teacher's context does not hold.
    """
    config = writer.config
    if config.author == "given":
        lead = reply_lead(writer.pair.tokenizer)
        return [_given(writer, p, lead if p.messages else "") for p in prompts]
    settings = config.sampling
    jobs = _numbered(prompts, settings.group_size)
    limits = _limits(writer, settings.temperature, jobs)
    by_teacher = {p.number for p in prompts if _teacher_writes(config, step, p)}
    completions: dict[tuple[int, int], Completion] = {}
    for author in _AUTHORS:
        part = [(p, g) for p, g in jobs if (p.number in by_teacher) == (author == "teacher")]
        if part:
            for c in _written(writer, part, limits, step, stop, config.prompts, author):
                completions[c.prompt.number, c.number] = c
    return [completions[p.number, g] for p, g in jobs]


def write_ahead(writer: Writer, prompts: Sequence[Prompt], *, step: int) -> None:
    """Begins what `write` is asked for at the next step, where the sampler writes meanwhile."""
    settings = writer.config.sampling
    if isinstance(writer.sampler, AheadSampler):
        limits = Limits(settings.max_new_tokens, settings.temperature, settings.batch_size)
        jobs = _numbered(prompts, settings.group_size)
        writer.sampler.begin(_requests(writer.config, jobs, step), limits)


def write_evaluation(
    writer: Writer,
    prompts: Sequence[Prompt],
    *,
    temperature: float,
    stop: Stop,
    data: DataConfig | None = None,
    author: Author = "student",
) -> list[Completion]:
    """Completions of held-out prompts; the same random numbers at every evaluation.

    `samples` of each above temperature 0, one at 0; graded as `data` says, else as the prompts.
    Raises UserError for a prompt that the teacher cannot read, where it is the author.
    """
    config = writer.config
    count = config.evaluation.samples if temperature else 1
    jobs = [(p, g) for p in prompts for g in range(count)]
    limits = _limits(writer, temperature, jobs)
    return _written(writer, jobs, limits, EVALUATION, stop, data or config.prompts, author)


def _limits(writer: Writer, temperature: float, jobs: Sequence[Job]) -> Limits:
    """Of all jobs of one temperature; a process that writes a share of them computes it in batches
    that are as wide as that of the whole, and large enough to be rounded alike."""
    settings = writer.config.sampling
    limits = Limits(settings.max_new_tokens, temperature, settings.batch_size)
    if writer.ranks.size == 1 or not jobs:
        return limits
    whole = len(jobs) <= settings.batch_size
    longest = max((p.ids for p, _ in jobs), key=len) if whole else ()
    return replace(limits, fewest=min(len(jobs), ROUNDED_ALIKE), longest=tuple(longest))


def _written(
    writer: Writer,
    jobs: Sequence[Job],
    limits: Limits,
    step: int,
    stop: Stop,
    grading: DataConfig,
    author: Author,
) -> list[Completion]:
    """One completion a job, in their order; each process writes and grades its share."""

    def share(part: Sequence[Job]) -> list[tuple[Sample, str, float | None]]:
        samples = _AUTHORS[author](writer, part, limits, step, stop)
        completions = graded(writer.pair.tokenizer, grading, part, samples, author)
        return [(c.sample, c.text, c.reward) for c in completions]

    written = writer.ranks.shared(jobs, share)
    return [
        Completion(prompt, number, *fields, author)
        for (prompt, number), fields in zip(jobs, written, strict=True)
    ]


def sample_by(
    teacher: LocalTeacher | None,
    pair: Pair,
    requests: Sequence[Request],
    limits: Limits,
    stop: Stop,
) -> list[Sample]:
    """Samples of the pair's student, or of a teacher in its place.

    Raises Stopped, and UserError where the model's log-probabilities are NaN.
    """
    if teacher is not None:
        with teacher.present(), teacher.state():
            samples = sample(teacher.as_student(pair), requests, limits, stop)
        return without_nan(samples, where="teacher")
    return LocalSampler(pair).write(requests, limits, stop)


def graded(
    tokenizer: Any,
    grading: DataConfig,
    jobs: Sequence[Job],
    samples: Sequence[Sample],
    author: Author = "student",
) -> list[Completion]:
    """The samples, one a job, with their texts and rewards."""
    ids = [s.completion_ids for s in samples]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    gradable = gradable_texts(tokenizer, ids, texts)
    return [
        Completion(prompt, number, s, text, grade(grading, whole, prompt.answer), author)
        for (prompt, number), s, text, whole in zip(jobs, samples, texts, gradable, strict=True)
    ]


def sequences(completions: Sequence[Completion]) -> Sequences:
    """The student's prompts with the completions' ids, in their order."""
    return Sequences(
        [c.prompt.ids for c in completions], [c.sample.completion_ids for c in completions]
    )


def _numbered(prompts: Sequence[Prompt], size: int) -> list[Job]:
    """A group of numbered completions for each prompt; one drawn twice continues counting."""
    drawn: dict[int, int] = {}
    jobs = []
    for prompt in prompts:
        first = drawn.get(prompt.number, 0)
        jobs += [(prompt, g) for g in range(first, first + size)]
        drawn[prompt.number] = first + size
    return jobs


def _teacher_writes(config: RunConfig, step: int, prompt: Prompt) -> bool:
    """Decided only by (seed, step, prompt), for the whole group."""
    if config.author == "teacher":
        return True
    (draw,) = uniforms((config.seed, TEACHER, step, prompt.number), 1)
    return bool(draw < config.sampling.teacher_share)


def _by_student(
    writer: Writer, jobs: Sequence[Job], limits: Limits, step: int, stop: Stop
) -> list[Sample]:
    requests = _requests(writer.config, jobs, step)
    return (writer.sampler or LocalSampler(writer.pair)).write(requests, limits, stop)


def _requests(config: RunConfig, jobs: Sequence[Job], step: int) -> list[Request]:
    return [Request(p.ids, (config.seed, step, p.number, g)) for p, g in jobs]


def _by_teacher(
    writer: Writer, jobs: Sequence[Job], limits: Limits, step: int, stop: Stop
) -> list[Sample]:
    router = writer.router
    assert router is not None, "the configuration lets only local teachers write"
    samples: dict[int, Sample] = {}
    for rows in router.by_route([p for p, _ in jobs]).values():
        part = [jobs[i] for i in rows]
        teacher = router.teacher(part[0][0])
        assert isinstance(teacher, LocalTeacher)
        requests = [
            Request(router.prompt_ids(p), (writer.config.seed, TEACHER + step, p.number, g))
            for p, g in part
        ]
        samples |= zip(rows, sample_by(teacher, writer.pair, requests, limits, stop), strict=True)
    return [samples[i] for i in range(len(jobs))]


_AUTHORS: dict[Author, _Writing] = {"student": _by_student, "teacher": _by_teacher}


def _given(writer: Writer, prompt: Prompt, lead: str) -> Completion:
    """The row's own completion behind the template's `lead`, ended once, cut to the limit."""
    pair, text = writer.pair, prompt.completion or ""
    limit = writer.config.sampling.max_new_tokens
    whole_text = led(pair.tokenizer, prompt.text, text, lead)
    ids = continuation(pair.tokenizer, prompt.text, whole_text).ids if text else []
    body, end = split_end(pair.tokenizer, ids, pair.eos_ids)
    if not body:
        raise UserError(
            f"prompt {prompt.number} has an empty completion; leave such rows out",
            where="prompts.columns.completion",
            kind=ErrorKind.BAD_DATA,
        )
    gradable = text
    if end is not None:
        bare, _ = split_end(pair.tokenizer, text_ids(pair.tokenizer, text), pair.eos_ids)
        text = pair.tokenizer.decode(bare, skip_special_tokens=True)
        (gradable,) = gradable_texts(pair.tokenizer, [body], [text])
    whole = [*body, pair.end_id if end is None else end]
    given = Sample(
        np.asarray(whole[:limit], np.int64), None, "stop" if len(whole) <= limit else "length"
    )
    reward = grade(writer.config.prompts, gradable, prompt.answer)
    return Completion(prompt, 0, given, text, reward, "given")
