"""Prompts as student and teacher read them: chat templates, lengths, what teachers are shown."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from opd.config.data import DataConfig
from opd.config.folders import BUNDLED_DATA, is_local
from opd.config.run import RunConfig
from opd.data.chats import (
    THINKING_SWITCHES,
    last_question,
    template_variables,
    with_default_system,
)
from opd.data.prompts import Prompt, PromptSet, load_prompts, rendered
from opd.data.template_dates import asks_for_time
from opd.doctor.data.rows import check_data
from opd.doctor.findings import Finding, quoted, refused
from opd.doctor.models import UNLIMITED, LocalModel, LocalModels
from opd.errors import UserError
from opd.teachers.routing import MAIN, by_route, field_of

LOOKED_AT = 256  # prompts whose rendering for teachers is tried
THINKING_ROOM = 1024  # tokens; a thinking model rarely reaches its answer in fewer
SAMPLE = ({"role": "user", "content": "What is 2 + 3?"},)


@dataclass(frozen=True)
class AvailablePrompts:
    """Prompts that could be read without a network, and the longest of them in tokens."""

    prompts: PromptSet | None
    longest: int | None


def read_prompts(config: RunConfig, models: LocalModels) -> tuple[AvailablePrompts, list[Finding]]:
    """The run's prompts where their source is on this disk; findings on them."""
    away = [s for s in _sources(config.prompts) if s not in BUNDLED_DATA and not is_local(s)]
    if away:
        return AvailablePrompts(None, None), [_not_looked_at(", ".join(away))]
    if models.student is None:
        return AvailablePrompts(None, None), []
    tokenizer, context = models.student.tokenizer, models.context(config)
    try:
        prompts = load_prompts(_at_hand(config), tokenizer, context, vocab=models.vocab)
    except UserError as error:
        return AvailablePrompts(None, None), [
            refused("prompts-refused", "The prompts cannot be used", error)
        ]
    longest = max(len(p.ids) for p in (*prompts.train, *prompts.held_out))
    room = context - config.sampling.max_new_tokens
    return AvailablePrompts(prompts, longest), [
        Finding(
            "prompts-fit",
            "ok",
            f"{len(prompts.train):,} training prompts, the longest of {longest} tokens",
            f"With sampling.max_new_tokens {config.sampling.max_new_tokens} all fit into the "
            + (f"context of {context:,} tokens." if context < UNLIMITED else "context."),
            evidence={
                "train": len(prompts.train),
                "held_out": len(prompts.held_out),
                "longest": longest,
                "room": room if context < UNLIMITED else None,
                "first": quoted(prompts.train[0].text),
            },
        ),
        *check_data(prompts, tokenizer),
    ]


def _sources(data: DataConfig) -> list[str]:
    return [s for s in (data.source, getattr(data, "eval_source", None)) if s is not None]


def _at_hand(config: RunConfig) -> RunConfig:
    """Without the suites that would have to be fetched."""
    suites = {
        name: suite
        for name, suite in config.evaluation.suites.items()
        if suite.source in BUNDLED_DATA or is_local(suite.source)
    }
    evaluation = config.evaluation.model_copy(update={"suites": suites})
    return config.model_copy(update={"evaluation": evaluation})


def _not_looked_at(sources: str) -> Finding:
    return Finding(
        "data-not-read",
        "info",
        f"{sources} is read when the run starts",
        "It is on the hub: its columns, its answers and the lengths of its prompts are checked "
        "only when the run starts.",
    )


def check_prompts(
    config: RunConfig, models: LocalModels, read: AvailablePrompts
) -> Iterator[Finding]:
    """Whether both models read what they were tuned for."""
    student = models.student
    if student is None:
        return
    chat = config.prompts.chat or (
        read.prompts is not None and any(p.messages for p in read.prompts.train)
    )
    if chat:
        yield from _templates(config, student, models.teachers, read)
        yield from _thinking(config, student)
        yield from _dates(student)
    else:
        yield from _plain(student, models.teachers)
    if read.prompts is not None:
        yield from _privileged(config, models, student, read.prompts.train)
        yield from _routes(config, read.prompts.train)
        yield from _gradable(config, read.prompts.held_out)


def _gradable(config: RunConfig, held_out: Sequence[Prompt]) -> Iterator[Finding]:
    """What ends a run by its held-out score needs an answer to grade by, as the run itself says
    after its first evaluation."""
    fields = [f"stop.{n}" for n in ("score", "patience") if getattr(config.stop, n) is not None]
    if not fields or config.prompts.grader == "json" or any(p.answer is not None for p in held_out):
        return
    yield Finding(
        "stop-without-answers",
        "error",
        "No held-out prompt can be graded",
        f"{' and '.join(fields)} need a held-out score, and none of the {len(held_out)} held-out "
        "prompts has an answer.",
        f"Give the data answers (prompts.columns.answer), or remove {' and '.join(fields)}.",
    )


def _templates(
    config: RunConfig, student: LocalModel, teachers: dict[str, LocalModel], read: AvailablePrompts
) -> Iterator[Finding]:
    """The same chat through both templates; the teacher reads what the student's makes of it."""
    prompt = read.prompts.train[0] if read.prompts else None
    messages = (prompt.messages if prompt else None) or SAMPLE
    ours = _through(student, messages, config.prompts)
    for field, teacher in teachers.items():
        theirs = _through(teacher, messages, config.prompts)
        evidence = {"student": ours, "teacher": theirs}
        if ours is None or theirs is None:
            who = "student" if ours is None else field
            yield Finding(
                "no-chat-template",
                "error" if ours is None else "warning",
                f"{who} has no chat template",
                "The prompts are chats. "
                + (
                    "The student's tokenizer must render them, and cannot."
                    if ours is None
                    else "This teacher was not tuned for chats and reads a format it does not know."
                ),
                "Use models that were tuned for chats, or set prompts.chat to false.",
                evidence,
            )
        elif ours != theirs:
            yield Finding(
                "chat-template-differs",
                "warning",
                "Student and teacher render a chat differently",
                "Both read the text of the student's template, which is not the one that this "
                "teacher was tuned on: it then judges worse than it could, above all at the first "
                f"tokens. Here {quoted(_end(ours))} and {quoted(_end(theirs))}.",
                "Use a student and a teacher of the same version, or set prompts.thinking so that "
                "both give the same text.",
                evidence,
            )
        else:
            yield Finding(
                "chat-template-same",
                "ok",
                "Student and teacher render chats the same",
                f"A chat becomes the same {len(ours)} characters for {field}.",
                evidence={"text": ours},
            )


def _through(model: LocalModel, messages: Sequence[Any], data: DataConfig) -> str | None:
    """The chat as this model's own template renders it; None without one, or where it refuses."""
    if model.template is None:
        return None
    messages = with_default_system(messages, data)
    question = last_question(messages) or ""
    prompt = Prompt(0, "", (), None, {"question": question}, tuple(messages))
    try:
        text, _ = rendered(prompt, data, model.tokenizer, template="{question}", system=None)
    except UserError:
        return None
    return text


def _end(text: str) -> str:
    return text[-80:]


def _thinking(config: RunConfig, student: LocalModel) -> Iterator[Finding]:
    switch = config.prompts.thinking
    names = template_variables(student.template or "")
    has_one = not names.isdisjoint(THINKING_SWITCHES)
    if switch is not None and not has_one:
        yield Finding(
            "thinking-ignored",
            "warning",
            "The chat template has no thinking switch",
            f"prompts.thinking is {str(switch).lower()}; the student's template does not use it.",
            "Leave prompts.thinking empty.",
        )
    elif has_one and switch is not False and config.sampling.max_new_tokens < THINKING_ROOM:
        yield Finding(
            "thinking-room",
            "warning",
            f"{config.sampling.max_new_tokens} tokens for a model that thinks first",
            "The chat template's thinking mode is on"
            + (" by default" if switch is None else "")
            + "; most answers are truncated before they reach a result.",
            "Set prompts.thinking to false, or sampling.max_new_tokens to 2048 or more.",
        )


def _dates(student: LocalModel) -> Iterator[Finding]:
    if asks_for_time(student.tokenizer):
        takes_one = "date_string" in (student.template or "")
        yield Finding(
            "dated-template",
            "info",
            "The chat template writes the date",
            "Prompts hold the date on which the run first starts. Resuming keeps it; a run that "
            "starts on another day has other prompts.",
            "To compare runs, set prompts.template_args.date_string." if takes_one else "",
        )


def _plain(student: LocalModel, teachers: dict[str, LocalModel]) -> Iterator[Finding]:
    tuned = [m.field for m in (student, *teachers.values()) if m.template is not None]
    if tuned:
        yield Finding(
            "plain-prompts",
            "info",
            "Prompts go to the models as plain text",
            f"{' and '.join(tuned)} can read chats. Plain text is right for base models; one tuned "
            "for chats then continues the text and may not answer it.",
            "Set prompts.chat to true if the prompts are questions to an assistant.",
        )


def _privileged(
    config: RunConfig, models: LocalModels, student: LocalModel, train: Sequence[Prompt]
) -> Iterator[Finding]:
    """The teachers' own prompts, tried on the first rows that each of them reads."""
    try:
        routes = by_route(config.teacher, train)
    except UserError:  # reported by the check of the routes
        routes = {route: list(range(len(train))) for route in (MAIN, *config.teacher.routes)}
    for route, numbers in routes.items():
        field = field_of(route)
        teacher = config.teachers[field]
        if not teacher.has_own_prompt:
            continue
        longest, example = 0, ""
        try:
            for number in numbers[:LOOKED_AT]:
                text, ids = rendered(
                    train[number],
                    config.prompts,
                    student.tokenizer,
                    template=teacher.prompt,
                    system=teacher.system,
                )
                longest, example = max(longest, len(ids)), example or text
        except UserError as error:
            yield refused("teacher-prompt-refused", f"{field}: its prompt cannot be made", error)
            continue
        context = models.teachers.get(field, student).context
        if longest + config.sampling.max_new_tokens > context:
            yield Finding(
                "teacher-prompt-long",
                "error",
                f"{field}: its prompts leave no room for completions",
                f"The longest has {longest} tokens; with sampling.max_new_tokens "
                f"{config.sampling.max_new_tokens} that is beyond the context of {context}.",
                f"Shorten {field}.prompt or {field}.system, or lower sampling.max_new_tokens.",
            )
        else:
            yield Finding(
                "teacher-prompt",
                "ok",
                f"{field} reads prompts of its own, of up to {longest} tokens",
                "Its template finds its fields in every row that was checked.",
                evidence={
                    "example": quoted(example),
                    "student": quoted(train[numbers[0]].text),
                },
            )


def _routes(config: RunConfig, train: Sequence[Prompt]) -> Iterator[Finding]:
    field, routes = config.teacher.route_by, config.teacher.routes
    if field is None or not routes:
        return
    try:
        numbers = by_route(config.teacher, train)
    except UserError as error:
        yield Finding(
            "route-field",
            "error",
            f"Rows have no field {field!r}",
            f"teacher.route_by names it; {error.message}.",
            "Name a field of the rows in teacher.route_by.",
        )
        return
    unused = [name for name in routes if name not in numbers]
    yield Finding(
        "route-unused" if unused else "routes",
        "warning" if unused else "ok",
        f"No prompt goes to {', '.join(unused)}" if unused else "Every route has prompts",
        f"Of {len(train)} prompts "
        + ", ".join(f"{len(numbers.get(name, ()))} go to {name}" for name in routes)
        + f" and {len(numbers.get(MAIN, ()))} to the main teacher.",
        f"Compare the names of teacher.routes with the values of {field!r}." if unused else "",
        {"prompts": dict.fromkeys(routes, 0) | Counter(str(p.row[field]) for p in train)},
    )
