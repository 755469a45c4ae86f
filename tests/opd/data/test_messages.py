"""Chats in every form come out as the same messages; what is no text is refused by name."""

import json

import pytest

from opd.data.messages import checked_args, checked_messages, checked_tools, looks_like_chat
from opd.errors import UserError

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def read(value):
    return checked_messages(value, "messages", "a.jsonl:1")


def refusal(value):
    with pytest.raises(UserError) as caught:
        read(value)
    assert caught.value.where == "a.jsonl:1"
    return caught.value.message


@pytest.mark.parametrize(
    "value",
    [
        CHAT,
        json.dumps(CHAT),
        json.dumps(json.dumps(CHAT)),
        repr(CHAT),
        [json.loads(json.dumps(m)) | {"tool_calls": None, "name": None} for m in CHAT],
        [
            {"from": "system", "value": "Be brief."},
            {"from": "human", "value": "2 + 2?"},
            {"from": "gpt", "value": "4", "weight": None},
        ],
        [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in CHAT],
    ],
)
def test_one_chat_in_every_form(value):
    assert read(value) == CHAT


def test_parts_of_text_are_joined_and_others_are_named():
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert read([{"role": "user", "content": parts}])[0]["content"] == "ab"
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    assert "message 1 has a part of type 'image_url'; only text is read" in refusal(image)
    assert "part of type 'audio'" in refusal([{"role": "user", "content": [{"type": "audio"}]}])
    assert "content of message 1 must be text (got 3)" in refusal([{"role": "user", "content": 3}])


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {"function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}},
        {"name": "add", "arguments": {"a": 2, "b": 2}},
    ],
)
def test_tool_calls_have_their_arguments_as_objects(call):
    [message] = read([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert message == {"role": "assistant", "content": "", "tool_calls": [CALL]}


def test_tool_calls_of_sharegpt():
    call = {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'}
    result = {"from": "observation", "value": "4"}
    first, second = read([call, result])
    assert first == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert second == {"role": "tool", "content": "4"}
    assert "is from 'narrator', not one of human" in refusal([{"from": "narrator", "value": "x"}])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hello", "must be a list or an object, or its JSON text"),
        ({"role": "user"}, "must be a list of {role, content}"),
        ("[__import__('os').getcwd()]", "must be a list or an object, or its JSON text"),
        ([{"role": "assistant", "tool_calls": [{"id": 1}]}], "a call must have a name"),
        ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}], "an object"),
    ],
)
def test_what_is_no_chat(value, message):
    assert message in refusal(value)


def test_a_prompt_that_is_a_chat():
    assert looks_like_chat(CHAT)
    assert looks_like_chat(json.dumps(CHAT))
    for text in ("2 + 2?", "[1, 2]", '[{"a": 1}]', "[{", None, 5, {"role": "user"}):
        assert not looks_like_chat(text)


@pytest.mark.parametrize("value", [[TOOL], json.dumps([TOOL]), [json.dumps(TOOL)], TOOL])
def test_tools_in_every_form(value):
    assert checked_tools(value, "tools", "a") == (TOOL,)


def test_parameters_of_tools_may_be_json_text():
    tool = {"name": "add", "parameters": '{"type": "object"}'}
    expected = {"name": "add", "parameters": {"type": "object"}}
    assert checked_tools([tool], "tools", "a") == (expected,)
    for nothing in (None, "", []):
        assert checked_tools(nothing, "tools", "a") == ()
    with pytest.raises(UserError, match="tools must be a list of objects"):
        checked_tools([3], "tools", "a")
    with pytest.raises(UserError, match="tools must be a list or an object"):
        checked_tools("calculator", "tools", "a")


def test_variables_of_a_row():
    assert checked_args('{"thinking": true, "x": null}', "args", "a") == {"thinking": True}
    with pytest.raises(UserError, match="args must be an object"):
        checked_args([1], "args", "a")
