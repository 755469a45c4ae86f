"""Which rollouts are kept, and in what form."""

import json
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from opd.config.run import RunConfig
from opd.config.templates import fields_of
from opd.data.columns import TEMPLATE_ARGS
from opd.data.prompts import Prompt
from opd.teachers.routing import TeacherRouter
from opd.training.rollouts import Completion
from opd.types import Kind, Rollout, TokenRecord

Part = TypeVar("Part")


def as_rollouts(
    router: TeacherRouter,
    completions: Sequence[Completion],
    records: Sequence[TokenRecord],
    *,
    step: int,
    kind: Kind,
    temperature: float,
) -> list[Rollout]:
    """The completions with what was recorded of their tokens by the router's teachers."""
    origins = {c.prompt.number: _origin(router, c.prompt) for c in completions}
    return [
        Rollout(
            step=step,
            kind=kind,
            group=c.prompt.number,
            sample=c.number,
            prompt=c.prompt.text,
            prompt_ids=np.asarray(c.prompt.ids, dtype=np.int64),
            completion=c.text,
            finish_reason=c.sample.finish_reason,
            temperature=temperature,
            record=record,
            reward=c.reward,
            answer=c.prompt.answer,
            author=c.author,
            teacher_end=router.end_token(c.prompt),
            staleness=c.sample.staleness if kind == "train" and c.author == "student" else None,
            **origins[c.prompt.number],
        )
        for c, record in zip(completions, records, strict=True)
    ]


def kept(rollouts: Sequence[Part], step: int, config: RunConfig) -> list[Part]:
    """Of the step's rollouts, or of one part of each, the first: on the steps that are recorded,
    and always on the last.

    In the order of the prompts' draw, which does not look at the outcome, so that what is kept is
    a fair sample of the step. The store drops from the end what exceeds the run's budget.
    """
    settings = config.records
    if (step - 1) % settings.every and step != config.steps:
        return []
    return list(rollouts[: settings.rollouts_per_step])


def data_row(prompt: Prompt, config: RunConfig) -> dict[str, Any]:
    """What a data file needs beside text and answer to give this prompt again, by the columns that
    are read by default: a chat's messages, tools and variables of its template, and the fields
    that teachers are chosen by or read. Empty for a plain prompt."""
    row: dict[str, Any] = {}
    names = {config.teacher.route_by} if config.teacher.route_by else set()
    for teacher in config.teachers.values():
        names |= {f for text in (teacher.prompt, teacher.system) if text for f in fields_of(text)}
    for name in sorted(names - {"prompt", "answer"}):
        if name in prompt.row:
            row[name] = prompt.row[name]
    if prompt.messages is not None:
        row["messages"] = list(prompt.messages)
        row |= {"tools": list(prompt.options.tools)} if prompt.options.tools else {}
        variables = dict(prompt.options.variables)
        row |= {TEMPLATE_ARGS: variables} if variables else {}
    text = json.dumps(row, default=str, ensure_ascii=False)
    plain: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
    return plain


def _origin(router: TeacherRouter, prompt: Prompt) -> dict[str, Any]:
    """Who judged the prompt's completions and what it read, and the row that the prompt is of."""
    teacher = router.path(prompt)
    text = prompt.text if teacher is None else router.prompt_text(prompt)
    return {
        "teacher": teacher,
        "teacher_prompt": None if text == prompt.text else text,
        "data_row": data_row(prompt, router.config),
    }


def all_tokens(records: Sequence[TokenRecord], name: str) -> NDArray[Any] | None:
    """One quantity of all records' tokens, one after the other; None where any has it not."""
    columns = [getattr(record, name) for record in records]
    return None if any(c is None for c in columns) else np.concatenate(columns)
