"""What a data file holds: every row tried, the first ones as they will be rendered."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from opd.config.data import DataConfig, PromptsConfig
from opd.data.chats import options_of, rendered_chat, with_default_system
from opd.data.drafts import forms_text
from opd.data.mapping import Draft, Mapper
from opd.data.overlap import repeats
from opd.data.rows import Row
from opd.data.sources import RowSelection, open_table
from opd.errors import UserError
from opd.models.encoding import prompt_ids
from opd.models.folders.progress import Say

CHUNK = 1000  # rows in memory at once beside those of text files
PROBLEMS = 20  # shown


@dataclass(frozen=True)
class ShownRow:
    """A row as a run would have it; where a tokenizer was given, `prompt` is rendered, and `tokens`
    is how many it has."""

    where: str
    form: str
    prompt: str | list[dict[str, Any]]
    answer: str | None
    completion: str | None
    tokens: int | None = None


@dataclass(frozen=True)
class Preview:
    """`problems`: (row, reason) of the first unusable rows; `unread`: columns that no row's prompt
    is made of, by how many rows have them; `columns`: each column with what it is read as, "" for
    nothing; `tried`: rows that were looked at."""

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
    columns: dict[str, str]
    tried: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self) | {"problems": [{"row": w, "message": m} for w, m in self.problems]}

    @property
    def form(self) -> str:
        return forms_text(self.forms) if self.forms else "nothing"


def preview(data: PromptsConfig, *, count: int, tokenizer: Any | None, say: Say) -> Preview:
    """Reads every row of `data.source`. Raises UserError where the source cannot be read at all,
    or lacks a configured column."""
    table = open_table(
        data, data.source, RowSelection(data.split, sys.maxsize, "prompts.source", say)
    )
    seen = preview_rows(Mapper(data, table, "prompts"), count=count, tokenizer=tokenizer)
    return replace(seen, source=data.source)


def preview_rows(
    mapper: Mapper, *, count: int, tokenizer: Any | None = None, most: int = sys.maxsize
) -> Preview:
    """The first `most` rows of an opened source, the first `count` usable ones in full. Raises
    UserError where it lacks a configured column."""
    data, table, tried = mapper.data, mapper.table, min(most, mapper.table.count)
    mapper.check_columns()
    drafts: list[Draft] = []
    problems: list[tuple[str, str]] = []
    unread: Counter[str] = Counter()
    columns: dict[str, str] = {}
    shown: list[ShownRow] = []
    for row in _rows(table.take, tried):
        try:
            draft = mapper.draft(row)
            roles = mapper.roles(row)
            columns |= {name: columns.get(name) or role for name, role in roles.items()}
            unread.update(name for name, role in roles.items() if not role)
            if len(shown) < count:
                shown.append(_shown(data, draft, tokenizer))
        except UserError as error:
            problems.append((error.where or row.where, error.message))
            continue
        drafts.append(draft)
    return Preview(
        table.name,
        table.count,
        dict(Counter(d.form for d in drafts)),
        sum(d.answer is not None for d in drafts),
        sum(d.completion_text is not None for d in drafts),
        dict(unread),
        len(repeats(drafts)),
        len(problems),
        problems[:PROBLEMS],
        shown,
        columns,
        tried,
    )


def usable(mapper: Mapper, count: int) -> list[Draft]:
    """The first rows of an opened source that can be used, at most `count`."""
    drafts: list[Draft] = []
    for row in _rows(mapper.table.take, mapper.table.count):
        try:
            drafts.append(mapper.draft(row))
        except UserError:
            continue
        if len(drafts) == count:
            break
    return drafts


def _rows(take: Callable[[list[int]], list[Row]], count: int) -> Iterator[Row]:
    for first in range(0, count, CHUNK):
        yield from take(list(range(first, min(count, first + CHUNK))))


def _shown(data: DataConfig, draft: Draft, tokenizer: Any | None) -> ShownRow:
    prompt: str | list[dict[str, Any]] = draft.text or ""
    if draft.messages is not None:
        messages = with_default_system(draft.messages, data)
        prompt = [dict(m) for m in messages]
        if tokenizer is not None:
            options = draft.options.over(options_of(data))
            prompt = rendered_chat(tokenizer, messages, where=draft.where, options=options)
    tokens = None
    if tokenizer is not None and isinstance(prompt, str):
        tokens = len(prompt_ids(tokenizer, [prompt], chat=draft.messages is not None)[0])
    return ShownRow(draft.where, draft.form, prompt, draft.answer, draft.completion_text, tokens)
