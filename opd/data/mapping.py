"""From a row of any data to a prompt that is still to be rendered, by the configured columns."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opd.config.data import DataConfig
from opd.config.templates import as_text, fields_of, render
from opd.data.chats import Message, last_question, with_last_question
from opd.data.sources import Row, Table, bad_data
from opd.errors import ErrorKind, UserError
from opd.grading.graders import find, problem_of


@dataclass(frozen=True)
class Draft:
    """A row as mapped, before it is rendered."""

    row: Mapping[str, Any]
    where: str
    text: str | None  # of a plain prompt
    messages: tuple[Message, ...] | None
    answer: str | None
    completion: str | None


@dataclass(frozen=True)
class Mapper:
    """From a table's rows to drafts, by the configured columns; `path` names their section."""

    data: DataConfig
    table: Table
    path: str

    def __call__(self, indices: Sequence[int]) -> list[Draft]:
        self._check_columns()
        return [self._draft(row) for row in self.table.take(indices)]

    def _check_columns(self) -> None:
        """Raises UserError for a table without a configured column, with those that it has."""
        columns, has = self.data.columns, self.table.columns
        if has is None:
            return
        if columns.messages in has:
            needed = {}
        elif self.data.prompt_template is not None:
            mapped = {"prompt": columns.prompt, "answer": columns.answer}
            fields = fields_of(self.data.prompt_template)
            missing = next((f for f in fields if mapped.get(f, f) not in has), None)
            needed = {"prompt_template": missing}
        else:
            needed = {"columns.prompt": columns.prompt}
        if columns.answer != "answer" or self.data.answer_in_data is not None:
            needed["columns.answer"] = columns.answer
        for name, column in needed.items():
            if column is not None and column not in has:
                raise UserError(
                    f"{self.table.name} has no column {column!r}; it has {', '.join(has)}"[:1000],
                    where=f"{self.path}.{name}",
                    kind=ErrorKind.BAD_DATA,
                )

    def _draft(self, row: Row) -> Draft:
        columns, fields = self.data.columns, dict(row.fields)
        whole = _answer(fields.get(columns.answer), self.data.grader, row.where)
        answer = self._cut_out(whole, row.where)
        completion = _completion(fields.get(columns.completion), row.where)
        messages = self._messages(fields)
        if messages is not None:
            chat, given = _checked_chat(messages, row.where)
            question = last_question(chat)
            completion = given if completion is None else completion
        else:
            chat, question = None, fields.get(columns.prompt)
        fields |= {"prompt": question, "answer": answer}
        if self.data.answer_in_data is not None:
            fields["full_answer"] = whole
        text = None if chat is not None else self._text(row, fields, question)
        if chat is not None and self.data.prompt_template is not None:
            template = render(self.data.prompt_template, fields, where=row.where)
            chat = tuple(with_last_question(chat, template) or chat)
        if question is None:
            fields["prompt"] = text
        return Draft(fields, row.where, text, chat, answer, completion)

    def _messages(self, fields: Mapping[str, Any]) -> Any:
        """The row's chat, which may stand in the prompt's column too."""
        messages = fields.get(self.data.columns.messages)
        if messages is None and isinstance(fields.get(self.data.columns.prompt), list):
            return fields[self.data.columns.prompt]
        return messages

    def _text(self, row: Row, fields: Mapping[str, Any], question: Any) -> str:
        """The plain prompt. Raises UserError for what is not text."""
        name = self.data.columns.prompt
        if self.data.prompt_template is not None:
            return render(self.data.prompt_template, fields, where=row.where)
        if isinstance(question, str) and question:
            return question
        if name in row.fields:
            raise bad_data(row.where, f"{name} must be non-empty text (got {question!r:.200})")
        has = f"{', '.join(row.fields):.200}"
        raise bad_data(
            row.where, f"{name} is missing (the row has {has}); {self.path}.columns.prompt names it"
        )

    def _cut_out(self, answer: str | None, where: str) -> str | None:
        if answer is None:
            return None
        if self.data.answer_in_data is not None:
            part = find(self.data.answer_in_data, answer)
            if part is None:
                raise bad_data(
                    where,
                    f"{self.path}.answer_in_data finds nothing in the answer {answer[-200:]!r}",
                )
            answer = part
        problem = problem_of(self.data, answer)
        if problem is not None:
            raise bad_data(where, problem)
        return answer


def _checked_chat(value: Any, where: str) -> tuple[tuple[Message, ...], str | None]:
    """A row's messages, and what an assistant's last one says, which is not of the prompt."""
    if not isinstance(value, list) or not value:
        raise bad_data(where, f"messages must be a list of {{role, content}} (got {value!r:.200})")
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise bad_data(
                where, f"message {number} must be {{role, content}} (got {message!r:.200})"
            )
        plain = {k: v for k, v in message.items() if v is not None}  # Arrow fills what is missing
        if not isinstance(plain.setdefault("content", ""), str):
            raise bad_data(where, f"content of message {number} must be text")
        messages.append(plain)
    given = None
    if messages[-1]["role"] == "assistant":
        given = messages.pop()["content"]
    if not messages:
        raise bad_data(where, "the chat has no message to answer")
    return tuple(messages), given


def _answer(value: Any, grader: str, where: str) -> str | None:
    """Text or number; objects and lists (of the graders json and tool_call) as their JSON."""
    text = as_text(value)
    if isinstance(value, dict | list) and grader in ("json", "tool_call"):
        return json.dumps(value, ensure_ascii=False, default=str)
    if value is not None and text is None:
        raise bad_data(where, f"answer must be text or a number (got {value!r:.100})")
    return text


def _completion(value: Any, where: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise bad_data(where, f"completion must be text (got {value!r:.100})")
    return value
