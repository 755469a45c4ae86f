"""Chats: messages replaced, completed and rendered by a tokenizer's own template."""

from collections.abc import Mapping, Sequence
from typing import Any

from opd.errors import ErrorKind, UserError, one_line

Message = Mapping[str, Any]  # role and content


def with_last_question(messages: Sequence[Message], text: str) -> list[Message] | None:
    """The chat with its last user message saying this; None where no user says anything."""
    last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=None)
    if last is None:
        return None
    return [*messages[:last], {**messages[last], "content": text}, *messages[last + 1 :]]


def last_question(messages: Sequence[Message]) -> str | None:
    """What the user said last."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), None)


def with_system(messages: Sequence[Message], text: str, *, replacing: bool) -> list[Message]:
    """The chat with this system message: first where it has none, in place of its first one."""
    first = next((i for i, m in enumerate(messages) if m["role"] == "system"), None)
    system = {"role": "system", "content": text}
    if first is None:
        return [system, *messages]
    if not replacing:
        return list(messages)
    return [*messages[:first], system, *messages[first + 1 :]]


def rendered_chat(
    tokenizer: Any, messages: Sequence[Message], *, where: str, thinking: bool | None = None
) -> str:
    """The text that the model reads before its answer, by the tokenizer's chat template.

    `thinking` sets the template's switch of that name, None leaves it. Raises UserError, naming
    `where`, for messages that the template refuses.
    """
    from jinja2 import TemplateError  # noqa: PLC0415 - only for chats

    switch = {} if thinking is None else {"enable_thinking": thinking}
    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(m) for m in messages], tokenize=False, add_generation_prompt=True, **switch
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(
            f"the student's chat template refuses the messages: {one_line(error)}",
            where=where,
            kind=ErrorKind.BAD_DATA,
        ) from None
