"""Chats in every form that data has them, as lists of {role, content}.

Messages may be JSON text, ShareGPT's {from, value}, or have their content in parts; tools and their
arguments may be JSON text too. What cannot be read as text is refused by name.
"""

import ast
import json
from collections.abc import Mapping
from typing import Any

from opd.data.chats import Message
from opd.data.rows import bad_data

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
    "tool_call": "assistant",
}
CALLS = ("function_call", "tool_call")  # of ShareGPT: the value is a call, not a text
TEXT_PARTS = ("text", "input_text", "output_text")
MAX_LEVELS = 3  # of JSON text within JSON text


def parsed(value: Any, name: str, where: str) -> Any:
    """A value that may be JSON text, also twice, or a Python literal, as what it stands for.

    Raises UserError for text that is neither.
    """
    for _ in range(MAX_LEVELS):
        if not isinstance(value, str):
            return value
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = _literal(value, name, where)
    return value


def _literal(text: str, name: str, where: str) -> Any:
    """What Python's repr wrote: 'single quotes', None, True."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise bad_data(
            where, f"{name} must be a list or an object, or its JSON text (got {text!r:.200})"
        ) from None


def looks_like_chat(value: Any) -> bool:
    """Whether a prompt's column holds a chat: a list, or JSON text of a list of messages."""
    if isinstance(value, list):
        return True
    if not isinstance(value, str) or not value.lstrip().startswith(("[{", "[ {", "[\n")):
        return False
    try:
        items = json.loads(value)
    except (ValueError, RecursionError):
        return False
    return isinstance(items, list) and bool(items) and all(map(_is_message, items))


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and ({"role", "content"} <= set(item) or is_sharegpt(item))


def is_sharegpt(item: Any) -> bool:
    return isinstance(item, Mapping) and "from" in item and "role" not in item


def checked_messages(value: Any, name: str, where: str) -> list[Message]:
    """The messages of a list or of its JSON text. Raises UserError naming the message."""
    value = parsed(value, name, where)
    if not isinstance(value, list) or not value:
        raise bad_data(where, f"{name} must be a list of {{role, content}} (got {value!r:.200})")
    return [_message(item, f"message {n}", where) for n, item in enumerate(value, 1)]


def _message(item: Any, name: str, where: str) -> Message:
    if is_sharegpt(item):
        return _from_sharegpt(item, name, where)
    if not isinstance(item, Mapping) or not isinstance(item.get("role"), str):
        raise bad_data(where, f"{name} must be {{role, content}} (got {item!r:.200})")
    message = {k: v for k, v in item.items() if v is not None}
    message["content"] = _content(message.get("content", ""), name, where)
    if "tool_calls" in message:
        calls = parsed(message["tool_calls"], f"tool_calls of {name}", where)
        message["tool_calls"] = _calls(calls, f"tool_calls of {name}", where)
        if not message["tool_calls"]:
            del message["tool_calls"]
    return message


def _from_sharegpt(item: Mapping[str, Any], name: str, where: str) -> Message:
    sender, value = item["from"], item.get("value", item.get("content"))
    role = SHAREGPT_ROLES.get(sender.lower()) if isinstance(sender, str) else None
    if role is None:
        senders = ", ".join(SHAREGPT_ROLES)
        raise bad_data(where, f"{name} is from {sender!r}, not one of {senders}")
    if sender.lower() in CALLS:
        calls = parsed(value, f"the call of {name}", where)
        calls = calls if isinstance(calls, list) else [calls]
        return {"role": role, "content": "", "tool_calls": _calls(calls, name, where)}
    more = {k: v for k, v in item.items() if k not in ("from", "value") and v is not None}
    return {**more, "role": role, "content": _content(value, name, where)}


def _content(content: Any, name: str, where: str) -> str:
    """Text, or parts of text joined. Raises UserError for images, sounds and the like."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_data(where, f"content of {name} must be text (got {content!r:.100})")
    return "".join(_part(part, name, where) for part in content)


def _part(part: Any, name: str, where: str) -> str:
    kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind not in TEXT_PARTS or not isinstance(text, str):
        raise bad_data(where, f"content of {name} has a part of type {kind!r}; only text is read")
    return text


def _calls(calls: Any, name: str, where: str) -> list[dict[str, Any]]:
    """OpenAI's tool calls, their arguments as objects, as chat templates read them."""
    if not isinstance(calls, list):
        raise bad_data(where, f"{name} must be a list (got {calls!r:.100})")
    return [_call(parsed(call, name, where), name, where) for call in calls]


def _call(call: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        raise bad_data(where, f"{name} must be a list of calls (got {call!r:.100})")
    function = call.get("function")
    if function is None:  # {"name", "arguments"} without the shell that templates look for
        function, call = call, {}
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise bad_data(where, f"{name}: a call must have a name (got {function!r:.100})")
    arguments = function.get("arguments", function.get("parameters")) or {}
    arguments = parsed(arguments, f"arguments of {function['name']}", where)
    if not isinstance(arguments, Mapping):
        raise bad_data(where, f"{name}: arguments of {function['name']} must be an object")
    more = {k: v for k, v in function.items() if k != "parameters"}
    return {"type": "function", **call, "function": {**more, "arguments": dict(arguments)}}


def checked_tools(value: Any, name: str, where: str) -> tuple[dict[str, Any], ...]:
    """Tools as a list of JSON schemas; each, and its parameters, may be JSON text."""
    if value is None or value == "":
        return ()
    value = parsed(value, name, where)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise bad_data(where, f"{name} must be a list of tools (got {value!r:.100})")
    return tuple(_tool(parsed(item, name, where), name, where) for item in value)


def _tool(tool: Any, name: str, where: str) -> dict[str, Any]:
    if not isinstance(tool, Mapping):
        raise bad_data(where, f"{name} must be a list of objects (got {tool!r:.100})")
    return {k: _schema(k, v, where) for k, v in tool.items()}


def _schema(key: str, value: Any, where: str) -> Any:
    if key == "function" and isinstance(value, Mapping):
        return {k: _schema(k, v, where) for k, v in value.items()}
    return parsed(value, f"{key} of a tool", where) if key == "parameters" else value


def checked_args(value: Any, name: str, where: str) -> dict[str, Any]:
    """Variables of the chat template that stand in a row."""
    if value is None or value == "":
        return {}
    value = parsed(value, name, where)
    if not isinstance(value, Mapping):
        raise bad_data(where, f"{name} must be an object (got {value!r:.100})")
    return {k: v for k, v in value.items() if v is not None}
