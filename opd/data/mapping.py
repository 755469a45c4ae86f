"""From a row of any data to a prompt that is still to be rendered, by the configured columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opd.config.data import DataConfig
from opd.config.templates import check_template_args, fields_of, render
from opd.data.answers import answer_of, several
from opd.data.chats import (
    NO_OPTIONS,
    ChatOptions,
    Message,
    last_question,
    with_last_question,
    with_system,
)
from opd.data.columns import (
    GIVEN_ANSWERS,
    OUTPUT,
    TEMPLATE_ARGS,
    PromptColumn,
    chosen_columns,
    has_column,
    prompt_column,
    recognised_columns,
    value_of,
)
from opd.data.messages import checked_args, checked_messages, checked_tools, looks_like_chat
from opd.data.rows import Row, Table, bad_data
from opd.errors import ErrorKind, UserError
from opd.grading.extraction import find
from opd.grading.graders import problem_of, right_answers


@dataclass(frozen=True)
class Draft:
    """A row as mapped, before it is rendered; `form` says what it was read as."""

    row: Mapping[str, Any]
    where: str
    text: str | None  # of a plain prompt
    messages: tuple[Message, ...] | None
    answer: str | None  # several right ones as JSON text
    completion: str | None
    reply: Message | None = None  # an assistant's message, where it is the completion
    options: ChatOptions = NO_OPTIONS
    form: str = "text"

    @property
    def completion_text(self) -> str | None:
        """The completion, of a message its content."""
        if self.completion is None and self.reply is not None:
            return str(self.reply["content"])
        return self.completion


@dataclass(frozen=True)
class Mapper:
    """From a table's rows to drafts, by the configured columns; `path` names their section."""

    data: DataConfig
    table: Table
    path: str

    def __call__(self, indices: Sequence[int]) -> list[Draft]:
        self.check_columns()
        return [self.draft(row) for row in self.table.take(indices)]

    def check_columns(self) -> None:
        """Raises UserError for a table without a configured column, with those that it has."""
        columns, has = self.data.columns, self.table.columns
        if has is None:
            return
        chosen = chosen_columns(self.data)
        if has_column(has, columns.messages):
            needed = {}
        elif self.data.prompt_template is not None:
            mapped = {"prompt": columns.prompt, "answer": columns.answer}
            made = {"prompt"} if recognised_columns(self.data, has) else set()
            fields = [f for f in fields_of(self.data.prompt_template) if f not in made]
            missing = next((f for f in fields if not has_column(has, mapped.get(f, f))), None)
            needed = {"prompt_template": missing}
        elif not has_column(has, columns.prompt) and recognised_columns(self.data, has):
            needed = {}
        else:
            needed = {"columns.prompt": columns.prompt}
        if "answer" in chosen or self.data.answer_in_data is not None:
            needed["columns.answer"] = columns.answer
        for name in chosen & {"messages", "completion", "system", "tools", "template_args"}:
            needed[f"columns.{name}"] = getattr(columns, name)
        for name, column in needed.items():
            if column is not None and not has_column(has, column):
                raise UserError(
                    f"{self.table.name} has no column {column!r}; it has {', '.join(has)}"[:1000],
                    where=f"{self.path}.{name}",
                    kind=ErrorKind.BAD_DATA,
                )

    def draft(self, row: Row) -> Draft:
        """Raises UserError, naming the row, for one that cannot be used."""
        fields = dict(row.fields)
        column = prompt_column(self.data, fields, row.where)
        whole = answer_of(
            value_of(fields, self.data.columns.answer, row.where), self.data.grader, row.where
        )
        answer = self._cut_out(whole, row.where)
        chat, reply = self._chat(column, row.where)
        question = last_question(chat) if chat else column and column.value
        fields |= {"prompt": question, "answer": answer}
        if self.data.answer_in_data is not None:
            fields["full_answer"] = whole
        completion = self._completion(row, column, reply)
        text = None if chat is not None else self._text(row, fields, question)
        if chat is not None and self.data.prompt_template is not None:
            content = render(self.data.prompt_template, fields, where=row.where)
            chat = tuple(with_last_question(chat, content) or chat)
        if question is None:
            fields["prompt"] = text
        form = column.form if column else "text"
        if chat is None and self.data.chat:
            chat, text = ({"role": "user", "content": text},), None
        options = NO_OPTIONS
        if chat is not None:
            chat, options = self._with_system(chat, row), self._options(row)
        given = completion if isinstance(completion, str) else None
        message = None if isinstance(completion, str) else completion
        return Draft(fields, row.where, text, chat, answer, given, message, options, form)

    def roles(self, row: Row) -> dict[str, str]:
        """The row's filled columns, each with what it is read as; "" for one that nothing reads."""
        columns, column = self.data.columns, prompt_column(self.data, row.fields, row.where)
        read = dict.fromkeys(fields_of(self.data.prompt_template or ""), "prompt_template")
        if self.data.chat or (column is not None and column.is_chat):
            read |= {columns.template_args: "template variables"}
            read |= {TEMPLATE_ARGS: "template variables"}
            read |= {columns.tools: "tools", columns.system: "system"}
        read |= {columns.completion: "completion", columns.answer: "answer"}
        read |= dict.fromkeys(column.names if column else (), "prompt")
        if column is not None and column.form == "Alpaca":
            read[OUTPUT] = "completion"
        roots = {name.partition(".")[0]: role for name, role in read.items()}
        return {k: roots.get(k, "") for k, v in row.fields.items() if v is not None}

    def unread(self, row: Row) -> list[str]:
        """The row's columns that nothing here reads."""
        return [name for name, role in self.roles(row).items() if not role]

    def _chat(
        self, column: PromptColumn | None, where: str
    ) -> tuple[tuple[Message, ...] | None, Message | None]:
        """The chat, and an assistant's last message, which is not of the prompt."""
        if column is None or not column.is_chat:
            return None, None
        messages = checked_messages(column.value, column.names[0], where)
        reply = messages.pop() if messages[-1]["role"] == "assistant" else None
        if not messages:
            raise bad_data(where, "the chat has no message to answer")
        return tuple(messages), reply

    def _completion(
        self, row: Row, column: PromptColumn | None, reply: Message | None
    ) -> str | Message | None:
        """The given completion: text, or an assistant's message. Raises UserError for two."""
        name = self.data.columns.completion
        value = value_of(row.fields, name, row.where)
        if value is None and column is not None and column.form == "Alpaca":
            name, value = OUTPUT, row.fields.get(OUTPUT)
        if value is None:
            return reply
        given: str | Message
        if looks_like_chat(value):
            given = self._given_message(value, name, row.where)
        elif isinstance(value, str):
            given = value
        else:
            raise bad_data(row.where, f"{name} must be text or one message (got {value!r:.100})")
        if reply is not None and "completion" not in chosen_columns(self.data):
            content = given if isinstance(given, str) else given["content"]
            if content != reply["content"]:
                raise bad_data(
                    row.where,
                    f"the last message and {name} give different completions; leave one of them "
                    f"out, or rename the column and name it in {self.path}.columns.completion",
                )
        return given

    def _given_message(self, value: Any, name: str, where: str) -> Message:
        messages = checked_messages(value, name, where)
        if len(messages) != 1 or messages[0]["role"] != "assistant":
            roles = ", ".join(str(m["role"]) for m in messages)
            raise bad_data(where, f"{name} must be one assistant message (got {roles:.200})")
        return messages[0]

    def _with_system(self, chat: tuple[Message, ...], row: Row) -> tuple[Message, ...]:
        name = self.data.columns.system
        system = value_of(row.fields, name, row.where)
        if system is None or system == "":
            return chat
        if not isinstance(system, str):
            raise bad_data(row.where, f"{name} must be text (got {system!r:.100})")
        return tuple(with_system(chat, system, replacing=False))

    def _options(self, row: Row) -> ChatOptions:
        columns, fields = self.data.columns, row.fields
        name = columns.template_args
        if "template_args" not in chosen_columns(self.data) and name not in fields:
            name = TEMPLATE_ARGS
        variables = checked_args(value_of(fields, name, row.where), name, row.where)
        try:
            check_template_args(variables)
        except ValueError as error:
            raise bad_data(row.where, f"{name}: {error}") from None
        tools = checked_tools(value_of(fields, columns.tools, row.where), columns.tools, row.where)
        return ChatOptions(tools, variables)

    def _text(self, row: Row, fields: Mapping[str, Any], question: Any) -> str:
        """The plain prompt. Raises UserError for what is not text."""
        name = self.data.columns.prompt
        if self.data.prompt_template is not None:
            return render(self.data.prompt_template, fields, where=row.where)
        if isinstance(question, str) and question:
            return question
        if question is not None or name in row.fields:
            raise bad_data(row.where, f"{name} must be non-empty text (got {question!r:.200})")
        has = f"{', '.join(row.fields):.200}"
        chats = [n for n in GIVEN_ANSWERS if n in row.fields]
        more = f"; {self.path}.columns.messages: {chats[0]} reads that chat" if chats else ""
        raise bad_data(
            row.where,
            f"{name} is missing (the row has {has}); {self.path}.columns.prompt names it{more}",
        )

    def _cut_out(self, answer: str | None, where: str) -> str | None:
        """The answer, or what answer_in_data finds in it. Raises UserError for unusable ones."""
        if answer is None:
            return None
        answers = right_answers(self.data.grader, answer)
        if self.data.answer_in_data is not None:
            parts = [find(self.data.answer_in_data, a) for a in answers]
            answers = tuple(p for p in parts if p is not None)
            if not answers:
                raise bad_data(
                    where,
                    f"{self.path}.answer_in_data finds nothing in the answer {answer[-200:]!r}",
                )
        problems = [problem_of(self.data, a) for a in answers]
        if all(problems):
            raise bad_data(where, problems[0] or "")
        return several([a for a, p in zip(answers, problems, strict=True) if p is None])
