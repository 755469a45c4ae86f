"""What a data file holds: every row tried, the first ones as they will be rendered."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from opd.config.data import PromptsConfig
from opd.data.chats import options_of, rendered_chat, with_default_system
from opd.data.drafts import forms_text
from opd.data.mapping import Draft, Mapper
from opd.data.overlap import repeats
from opd.data.rows import Row
from opd.data.sources import RowSelection, open_table
from opd.errors import UserError
from opd.models.folders.progress import Say

CHUNK = 1000  # rows in memory at once beside those of text files
PROBLEMS = 20  # shown


@dataclass(frozen=True)
class ShownRow:
    """A row as a run would have it; `prompt` is rendered where a tokenizer was given."""

    where: str
    form: str
    prompt: str | list[dict[str, Any]]
    answer: str | None
    completion: str | None


@dataclass(frozen=True)
class Preview:
    """`problems`: (row, reason) of the first unusable rows; `unread`: columns that no row's prompt
    is made of, by how many rows have them."""

    source: str
    rows: int
    forms: dict[str, int]
    answers: int
    completions: int
    unread: dict[str, int]
    repeats: int
    unusable: int
    problems: list[tuple[str, str]]
    shown: list[ShownRow]

    @property
    def form(self) -> str:
        return forms_text(self.forms) if self.forms else "nothing"


def preview(data: PromptsConfig, *, count: int, tokenizer: Any | None, say: Say) -> Preview:
    """Reads every row of `data.source`. Raises UserError where the source cannot be read at all,
    or lacks a configured column."""
    table = open_table(
        data, data.source, RowSelection(data.split, sys.maxsize, "prompts.source", say)
    )
    mapper = Mapper(data, table, "prompts")
    mapper.check_columns()
    drafts: list[Draft] = []
    problems: list[tuple[str, str]] = []
    unread: Counter[str] = Counter()
    shown: list[ShownRow] = []
    for row in _rows(table.take, table.count):
        try:
            draft = mapper.draft(row)
            unread.update(mapper.unread(row))
            if len(shown) < count:
                shown.append(_shown(data, draft, tokenizer))
        except UserError as error:
            problems.append((error.where or row.where, error.message))
            continue
        drafts.append(draft)
    return Preview(
        data.source,
        table.count,
        dict(Counter(d.form for d in drafts)),
        sum(d.answer is not None for d in drafts),
        sum(d.completion_text is not None for d in drafts),
        dict(unread),
        len(repeats(drafts)),
        len(problems),
        problems[:PROBLEMS],
        shown,
    )


def _rows(take: Callable[[list[int]], list[Row]], count: int) -> Iterator[Row]:
    for first in range(0, count, CHUNK):
        yield from take(list(range(first, min(count, first + CHUNK))))


def _shown(data: PromptsConfig, draft: Draft, tokenizer: Any | None) -> ShownRow:
    prompt: str | list[dict[str, Any]] = draft.text or ""
    if draft.messages is not None:
        messages = with_default_system(draft.messages, data)
        prompt = [dict(m) for m in messages]
        if tokenizer is not None:
            options = draft.options.over(options_of(data))
            prompt = rendered_chat(tokenizer, messages, where=draft.where, options=options)
    return ShownRow(draft.where, draft.form, prompt, draft.answer, draft.completion_text)
