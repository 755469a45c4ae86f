"""A run's prompts before it starts: the rows as read, and each prompt as its readers will see it.

No weights are loaded; of a hub model only the tokenizer is fetched.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from opd.config.data import SUITES, DataConfig, check_prompt_set
from opd.config.models import RouteConfig
from opd.config.run import RunConfig
from opd.config.templates import fields_of
from opd.data.drafts import check_training_rows, read_drafts, source_mapper
from opd.data.mapping import Draft
from opd.data.preview import Preview, preview_rows, usable
from opd.data.prompts import (
    Prompt,
    PromptBuilder,
    rendered,
    room_for_prompts,
)
from opd.data.template_dates import render_as_of
from opd.errors import UserError
from opd.models.architecture import Architecture, architecture_of
from opd.models.folders.progress import Say
from opd.models.folders.resolve import resolve_tokenizer
from opd.models.token_text import TokenText
from opd.models.tokenizers import load_tokenizer, unknown_id
from opd.sampling.sample import NEVER, Stopped
from opd.teachers.routing import field_of, route_of

UNLIMITED = 2**31  # tokens of context where a model does not say
ROWS_TRIED = 20_000  # of a source
PROMPTS_COUNTED = 2000  # whose tokens are counted
HEAD, TAIL = 3000, 1000  # tokens of a longer prompt that are shown
VALUE = 400  # characters of a row's value
STOP_EVERY = 64  # prompts


@dataclass(frozen=True)
class Piece:
    """A stretch of a prompt's text: `kind` is "" for plain text, "special" for one special token,
    "cut" for what is not shown."""

    text: str
    kind: str = ""


@dataclass(frozen=True)
class PromptReader:
    """What one model reads in a prompt's place. `section` is its part of the configuration;
    `same`: the student's own prompt, which is not repeated; `limit`: the most tokens it may have,
    None where it is not known, set by `limited_by`; `unknown`: how many of them stand for text that
    the tokenizer does not know; `problem`: why it cannot be read."""

    section: str
    model: str
    same: bool = False
    tokens: int | None = None
    limit: int | None = None
    limited_by: str = ""
    unknown: int = 0
    problem: str = ""
    pieces: list[Piece] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return self.tokens is not None and (self.limit is None or self.tokens <= self.limit)


@dataclass(frozen=True)
class PreviewedPrompt:
    """One prompt of the set with its row's values, cut; `verdict` is "kept", "left out" (overlong:
    drop) or "refused", and the run does not start."""

    where: str
    form: str
    fields: dict[str, str]
    answer: str | None
    completion: str | None
    verdict: str
    readers: list[PromptReader]


@dataclass(frozen=True)
class PromptPreview:
    """`prompts` are the first of the set named `name`, which has `count`; of the first `counted`
    the longest has `longest` tokens and `too_long` are over the limit. `problem`: why the run could
    not take its rows; the prompts are then of the source's first usable rows. `note`: why no
    teacher is among the readers."""

    name: str
    rows: Preview
    count: int
    counted: int
    longest: int
    too_long: int
    overlong: str
    problem: str
    note: str
    prompts: list[PreviewedPrompt]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"rows": self.rows.as_dict() | {"form": self.rows.form}}


def preview_prompts(
    config: RunConfig,
    name: str,
    *,
    count: int = 3,
    say: Say = lambda _: None,
    stop: Callable[[], bool] = NEVER,
) -> PromptPreview:
    """The first `count` prompts of a set: `name` is train, held-out, probe, or a suite's section.

    Models that are other runs must be folders by now. Raises UserError for a model or a source
    that cannot be read at all, and Stopped.
    """
    check_prompt_set(name, config.evaluation.suites)
    readers = _Readers(config, name, say)
    mapper = source_mapper(config, name, say)
    _check(stop)
    say("reading rows")
    rows = preview_rows(mapper, count=0, most=ROWS_TRIED)
    problem = ""
    _check(stop)
    try:
        drafts = _drafts(config, name, say)
    except UserError as error:
        problem, drafts = str(error), usable(mapper, count)
    rows.columns.update(_teacher_columns(config, rows.columns))
    say("rendering prompts")
    builder, made, counted = readers.builder, [], _Lengths()
    for number, draft in enumerate(drafts[: max(count, PROMPTS_COUNTED)]):
        if number % STOP_EVERY == 0:
            _check(stop)
        if number < count:
            made.append(readers.prompt(draft, number, rows.columns))
        try:
            counted.add(len(builder.prompt(draft, number).ids), builder.limit)
        except UserError as error:
            problem = problem or str(error)
            counted.add(0, builder.limit)
    return PromptPreview(
        name,
        rows,
        len(drafts) if not problem else rows.rows,
        counted.count,
        counted.longest,
        counted.too_long,
        builder.data.overlong,
        problem,
        readers.note,
        made,
    )


def _check(stop: Callable[[], bool]) -> None:
    if stop():
        raise Stopped


@dataclass
class _Lengths:
    count: int = 0
    longest: int = 0
    too_long: int = 0

    def add(self, tokens: int, limit: int) -> None:
        self.count += 1
        self.longest = max(self.longest, tokens)
        self.too_long += tokens > limit


def _drafts(config: RunConfig, name: str, say: Say) -> Sequence[Draft]:
    sets = read_drafts(config, say)
    if name == "train":
        check_training_rows(config, sets.train)
    if name.startswith(SUITES):
        return sets.suites[name.removeprefix(SUITES)]
    return {"train": sets.train, "held-out": sets.held_out, "probe": sets.probe}[name]


def _teacher_columns(config: RunConfig, columns: Mapping[str, str]) -> dict[str, str]:
    """What the teachers read of columns that the student's prompt is not made of."""
    roles: dict[str, str] = {}
    for settings in config.teachers.values():
        for template in (settings.prompt, settings.system):
            roles |= dict.fromkeys(fields_of(template or ""), "teacher's prompt")
    if config.teacher.routes and config.teacher.route_by:
        roles[config.teacher.route_by] = "teacher's route"
    return {name: role for name, role in roles.items() if columns.get(name) == ""}


class _Readers:
    """Who reads a set's prompts, and how: tokenizers and limits, without weights."""

    def __init__(self, config: RunConfig, name: str, say: Say) -> None:
        self._config, self._name = config, name
        student = config.student.model
        say(f"loading the tokenizer of {student}")
        folder = resolve_tokenizer(student, where="student.model", say=say)
        self._tokenizer = load_tokenizer(folder, where="student.model")
        render_as_of(self._tokenizer, datetime.now())
        self._texts = TokenText(self._tokenizer)
        self.note = _without_teacher(config, name)

    @cached_property
    def _architectures(self) -> dict[str, Architecture | None]:
        """Of the student and of each teacher with a model of its own, by section."""
        student = architecture_of(self._config.student.model, where="student.model")
        architectures = {"student": student}
        for path, settings in self._config.teachers.items():
            has_model = settings.kind == "model"
            architectures[path] = (
                architecture_of(settings.model, where=f"{path}.model") if has_model else student
            )
            if settings.kind == "remote":
                architectures[path] = None
        return architectures

    def _context(self, path: str) -> int:
        architecture = self._architectures[path]
        return (architecture.context if architecture else None) or UNLIMITED

    @cached_property
    def builder(self) -> PromptBuilder:
        config = self._config
        plain = [p for p, t in config.teachers.items() if not t.has_own_prompt]
        context = min(self._context(p) for p in ("student", *plain))
        vocab = min((a.vocab for a in self._architectures.values() if a), default=None)
        data: DataConfig = config.prompts
        path = "prompts"
        if self._name.startswith(SUITES):
            path = self._name
            data = config.evaluation.suites[path.removeprefix(SUITES)]
        room = room_for_prompts(config, context)
        given = config.author == "given" and self._name == "train"
        return PromptBuilder(data, self._tokenizer, room, path, path, given=given, vocab=vocab)

    def prompt(self, draft: Draft, number: int, columns: Mapping[str, str]) -> PreviewedPrompt:
        readers, verdict, builder = [], "refused", self.builder
        try:
            prompt = builder.prompt(draft, number)
        except UserError as error:
            readers = [self._student(problem=str(error))]
        else:
            student = self._student(prompt)
            readers = [student, *([] if self.note else [self._teacher(prompt, student)])]
            verdict = _verdict(readers, builder.data.overlong)
        return PreviewedPrompt(
            draft.where,
            draft.form,
            {k: _brief(v) for k, v in draft.row.items() if k in columns},
            draft.answer,
            draft.completion_text,
            verdict,
            readers,
        )

    def _student(self, prompt: Prompt | None = None, *, problem: str = "") -> PromptReader:
        model, builder = self._config.student.model, self.builder
        if prompt is None:
            return PromptReader("student", model, problem=problem)
        limit = builder.limit if builder.limit < UNLIMITED // 2 else None
        by = "context" if builder.limit == builder.room else "max_prompt_tokens"
        tokens = len(prompt.ids)
        unknown, pieces = self._unknown(prompt.ids), self._pieces(prompt.ids)
        return PromptReader("student", model, False, tokens, limit, by, unknown, pieces=pieces)

    def _teacher(self, prompt: Prompt, student: PromptReader) -> PromptReader:
        """The teacher that judges this prompt, whatever it reads in its place."""
        config = self._config
        try:
            path = field_of(route_of(config.teacher, prompt))
        except UserError as error:
            return PromptReader("teacher", "", problem=str(error))
        settings = config.teachers[path]
        model = _named(settings)
        if not settings.has_own_prompt:
            return PromptReader(path, model, True, student.tokens, student.limit, "context")
        try:
            _, ids = rendered(
                prompt,
                config.prompts,
                self._tokenizer,
                template=settings.prompt,
                system=settings.system,
            )
        except UserError as error:
            where = error.where.replace("teacher", path, 1)
            return PromptReader(path, model, problem=f"{where}: {error.message}")
        context = self._context(path)
        limit = None if context == UNLIMITED else room_for_prompts(config, context)
        unknown, pieces = self._unknown(ids), self._pieces(ids)
        return PromptReader(path, model, False, len(ids), limit, "context", unknown, pieces=pieces)

    def _unknown(self, ids: Sequence[int]) -> int:
        unknown = unknown_id(self._tokenizer)
        return 0 if unknown is None else list(ids).count(unknown)

    def _pieces(self, ids: Sequence[int]) -> list[Piece]:
        if len(ids) <= HEAD + TAIL:
            return self._joined(ids)
        cut = Piece(f"{len(ids) - HEAD - TAIL:,} tokens not shown", "cut")
        return [*self._joined(ids[:HEAD]), cut, *self._joined(ids[-TAIL:])]

    def _joined(self, ids: Sequence[int]) -> list[Piece]:
        """The text of ids, each special token by itself; bytes of a character are joined."""
        texts = self._texts(set(ids))
        runs: list[tuple[bytes, str]] = []
        for i in ids:
            raw, special = texts[i]
            if special or not runs or runs[-1][1]:
                runs.append((raw, "special" if special else ""))
            else:
                runs[-1] = (runs[-1][0] + raw, "")
        return [Piece(raw.decode("utf-8", "replace"), kind) for raw, kind in runs]


def _verdict(readers: Sequence[PromptReader], overlong: str) -> str:
    """What becomes of a prompt: only the student's own may be left out for its length."""
    student, *teachers = readers
    if any(not t.same and not t.fits for t in teachers):
        return "refused"
    if not student.fits:
        return "left out" if overlong == "drop" else "refused"
    return "kept"


def _without_teacher(config: RunConfig, name: str) -> str:
    """Why no teacher reads the prompts of this set; "" where one does."""
    if config.teacher.kind == "none":
        return "teacher.kind is none: no teacher reads these prompts."
    if name.startswith(SUITES):
        return "Suites are answered by the student only."
    if config.needs == "nothing" and not config.teacher_writes and not config.evaluates_teacher:
        return f"The objective {config.objective.name} uses no teacher."
    return ""


def _named(settings: RouteConfig) -> str:
    match settings.kind:
        case "self":
            return "the student as it starts"
        case "ema":
            return "the student's moving average"
        case "remote":
            return f"{settings.model} at {settings.url}"
    return settings.model


def _brief(value: Any) -> str:
    """A row's value as text, cut."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= VALUE else f"{text[:VALUE]}…"
