"""Chats: what is replaced and what stays."""

import pytest

from opd.config.run import parse
from opd.data.chats import (
    ChatOptions,
    last_question,
    options_of,
    rendered_chat,
    rendered_reply,
    template_variables,
    with_last_question,
    with_system,
)
from opd.errors import UserError
from tests.support import tiny_models

SYSTEM = {"role": "system", "content": "be brief"}
FIRST = {"role": "user", "content": "one"}
REPLY = {"role": "assistant", "content": "two"}
LAST = {"role": "user", "content": "three", "name": "Ann"}


def test_the_last_question_is_replaced_and_all_else_stays() -> None:
    chat = [SYSTEM, FIRST, REPLY, LAST]
    assert last_question(chat) == "three"
    assert with_last_question(chat, "four") == [SYSTEM, FIRST, REPLY, {**LAST, "content": "four"}]
    assert with_last_question([FIRST, REPLY], "four") == [{**FIRST, "content": "four"}, REPLY]


def test_a_chat_without_a_question_has_none() -> None:
    assert last_question([SYSTEM, REPLY]) is None
    assert with_last_question([SYSTEM, REPLY], "four") is None


def test_a_system_message_comes_first_or_replaces_the_first_one() -> None:
    assert with_system([FIRST], "be brief", replacing=False) == [SYSTEM, FIRST]
    other = {"role": "system", "content": "be exact"}
    assert with_system([other, FIRST], "be brief", replacing=False) == [other, FIRST]
    assert with_system([other, FIRST], "be brief", replacing=True) == [SYSTEM, FIRST]


TEMPLATE = (
    "{% if tools %}[{{ tools | tojson }}]{% endif %}{% if thinking %}(think){% endif %}"
    "{% for m in messages %}<{{ m.role }}>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments | tojson }}"
    "{% endfor %}<end>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
OPENED = TEMPLATE.replace("<assistant>{% endif %}", "<assistant><think>{% endif %}")
USER = {"role": "user", "content": "2+2"}


def tokenizer_with(template):
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def reply_text(template, **reply):
    message = {"role": "assistant", "content": "4", **reply}
    return rendered_reply(tokenizer_with(template), [USER], message, where="row 1")


def test_options_reach_the_template():
    options = ChatOptions(({"name": "f"},), {"thinking": True})
    text = rendered_chat(tokenizer_with(TEMPLATE), [USER], where="x", options=options)
    assert text == '[[{"name": "f"}]](think)<user>2+2<end>\n<assistant>'
    base = options_of(parse({"prompts": {"thinking": False, "template_args": {"a": 1}}}).prompts)
    assert ChatOptions(variables={"a": 2}).over(base).variables == {
        "enable_thinking": False,
        "thinking": False,
        "a": 2,
    }


def test_a_reply_is_what_the_template_writes_after_its_generation_prompt():
    assert reply_text(TEMPLATE) == "4"
    assert reply_text(TEMPLATE, reasoning_content="so") == "<think>so</think>4"
    assert reply_text(TEMPLATE, thinking="so") == "<think>so</think>4"
    assert reply_text(OPENED, reasoning_content="so") == "so</think>4"
    spaced = TEMPLATE.replace("<{{ m.role }}>", "<{{ m.role }}>\n")
    assert reply_text(spaced, reasoning_content="so") == "<think>so</think>4"
    call = {"function": {"name": "f", "arguments": {"x": 1}}}
    assert reply_text(TEMPLATE, tool_calls=[call]) == '4f{"x": 1}'


def test_replies_that_the_template_cannot_write():
    bare = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    prompting = bare + "{% if add_generation_prompt %}assistant:{% endif %}"
    with pytest.raises(UserError, match=r"row 1: .*leaves out the reply's reasoning_content"):
        reply_text(prompting, reasoning_content="so")
    closed = TEMPLATE.replace("<assistant>{% endif %}", "<assistant><think></think>{% endif %}")
    with pytest.raises(UserError, match="does not let this reply follow its generation prompt"):
        reply_text(closed, reasoning_content="so")


def test_what_a_template_reads_from_outside():
    assert {"tools", "thinking"} <= template_variables(TEMPLATE)
    assert "reasoning_content" not in template_variables(TEMPLATE)
    tagged = (
        "{% for m in messages %}{% generation %}{{ x }}{% endgeneration %}{% break %}{% endfor %}"
    )
    assert template_variables(tagged) == {"messages", "x"}
    assert template_variables("{% if %}") == frozenset()
