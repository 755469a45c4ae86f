"""Chats: messages replaced, completed and rendered by a tokenizer's own template."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opd.config.data import DataConfig
from opd.errors import ErrorKind, UserError, one_line

Message = Mapping[str, Any]  # role and content; of an assistant also reasoning and tool calls
THINKING_SWITCHES = ("enable_thinking", "thinking")
REASONING = ("reasoning_content", "thinking", "reasoning")
MARK = "\u2063reply\u2063"  # stands for a reply's content where its surroundings are looked for
GENERATION_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")


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


def with_default_system(messages: Sequence[Message], data: DataConfig) -> list[Message]:
    """The chat with its section's system message, if there is one, where it has none."""
    if data.system is None:
        return list(messages)
    return with_system(messages, data.system, replacing=False)


@dataclass(frozen=True)
class ChatOptions:
    """What a chat template is given beside the messages: tools, and variables of its own."""

    tools: tuple[Mapping[str, Any], ...] = ()
    variables: Mapping[str, Any] = field(default_factory=dict)

    def over(self, base: "ChatOptions") -> "ChatOptions":
        """These options where they say something, those of `base` elsewhere."""
        return ChatOptions(self.tools or base.tools, {**base.variables, **self.variables})


NO_OPTIONS = ChatOptions()


def options_of(data: DataConfig) -> ChatOptions:
    """The options of all chats of a section. Templates name the thinking switch in two ways."""
    switch = {} if data.thinking is None else dict.fromkeys(THINKING_SWITCHES, data.thinking)
    return ChatOptions(variables={**switch, **(data.template_args or {})})


def rendered_chat(
    tokenizer: Any,
    messages: Sequence[Message],
    *,
    where: str,
    options: ChatOptions = NO_OPTIONS,
) -> str:
    """The text that the model reads before its answer, by the tokenizer's chat template.

    Raises UserError, naming `where`, for messages that the template refuses.
    """
    return _applied(tokenizer, messages, where, options, add_generation_prompt=True)


def rendered_reply(
    tokenizer: Any,
    messages: Sequence[Message],
    reply: Message,
    *,
    where: str,
    options: ChatOptions = NO_OPTIONS,
) -> str:
    """What the template writes of this reply after its generation prompt, without the blanks
    before it and the end of the turn.

    Raises UserError, naming `where`, where the template leaves out the reply's reasoning or tool
    calls, or writes a reply that does not continue the prompt.
    """
    if not _is_rendered(reply):
        return str(reply["content"])
    prompt = rendered_chat(tokenizer, messages, where=where, options=options)
    whole = _applied(tokenizer, [*messages, reply], where, options)
    bare = _applied(
        tokenizer, [*messages, {"role": reply["role"], "content": MARK}], where, options
    )
    if not whole.startswith(prompt):
        raise UserError(
            "the chat template does not let this reply follow its generation prompt, which ends in "
            f"{prompt[-40:]!r}; for a reply with reasoning, set prompts.thinking to true or leave "
            "it empty",
            where=where,
            kind=ErrorKind.BAD_DATA,
        )
    before, _, end = bare.rpartition(MARK)
    text = whole[len(prompt) :].removesuffix(end)
    if (lead := before.removeprefix(prompt)).isspace():
        text = text.removeprefix(lead)
    for name in REASONING:
        if reply.get(name) and str(reply[name]).strip() not in text:
            raise _left_out(name, where)
    for call in reply.get("tool_calls") or ():
        if str(call.get("function", call).get("name")) not in text:
            raise _left_out("tool_calls", where)
    return text


def template_variables(template: str) -> frozenset[str]:
    """The names that a chat template takes from outside; none where it cannot be parsed."""
    from jinja2 import Environment, TemplateError, meta  # noqa: PLC0415 - only for chats

    plain = GENERATION_TAG.sub("", template)
    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"]).parse(plain)
    except TemplateError:
        return frozenset()
    return frozenset(meta.find_undeclared_variables(parsed))


def template_source(tokenizer: Any) -> str | None:
    """The chat template's text, of several all of them; None without one."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        return "\n".join(map(str, template.values())) or None
    return template


def _is_rendered(reply: Message) -> bool:
    """Whether the reply is more than its content."""
    return any(reply.get(name) for name in (*REASONING, "tool_calls"))


def _left_out(name: str, where: str) -> UserError:
    return UserError(
        f"the chat template leaves out the reply's {name}; use a model whose template writes it, "
        "or put the text into content",
        where=where,
        kind=ErrorKind.BAD_DATA,
    )


def _applied(
    tokenizer: Any,
    messages: Sequence[Message],
    where: str,
    options: ChatOptions,
    *,
    add_generation_prompt: bool = False,
) -> str:
    from jinja2 import TemplateError  # noqa: PLC0415 - only for chats

    try:
        return str(
            tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                tools=[dict(t) for t in options.tools] or None,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **options.variables,
            )
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(
            f"the student's chat template refuses the messages: {one_line(error)}",
            where=where,
            kind=ErrorKind.BAD_DATA,
        ) from None
