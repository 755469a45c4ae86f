"""Which of a row's columns hold its prompt: the configured ones, else a form that is recognised."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from opd.config.data import DataConfig
from opd.data.messages import is_sharegpt, looks_like_chat, parsed
from opd.data.rows import bad_data

CONVERSATIONS = ("conversations", "conversation")
INSTRUCTION, INPUT, OUTPUT = "instruction", "input", "output"
TEMPLATE_ARGS = "template_args"  # another name for chat_template_kwargs
GIVEN_ANSWERS = ("chosen", "rejected")


def value_of(fields: Mapping[str, Any], name: str, where: str) -> Any:
    """The column of that name; with dots, a value within one: `reward_model.ground_truth`.

    None where there is none. A column on the way may be JSON text. Raises UserError at `where`,
    the row, for other text.
    """
    if name in fields or "." not in name:
        return fields.get(name)
    first, _, rest = name.partition(".")
    inner = fields.get(first)
    if isinstance(inner, str):
        inner = parsed(inner, first, where)
    return value_of(inner, rest, where) if isinstance(inner, Mapping) else None


def chosen_columns(data: DataConfig) -> set[str]:
    """The roles whose column has another name than by default: somebody chose it."""
    return set(data.columns.model_dump(exclude_defaults=True))


def has_column(columns: Collection[str], name: str) -> bool:
    return name in columns or name.partition(".")[0] in columns


@dataclass(frozen=True)
class PromptColumn:
    """Where a row's prompt stands, and in which form."""

    form: str
    names: tuple[str, ...]
    value: Any  # text, or what messages are read from
    is_chat: bool


def prompt_column(data: DataConfig, fields: Mapping[str, Any], where: str) -> PromptColumn | None:
    """None for a row without a prompt. Raises UserError where two columns could be it."""
    columns = data.columns
    messages = value_of(fields, columns.messages, where)
    if messages is not None:
        return _chat(columns.messages, messages, where)
    prompt = value_of(fields, columns.prompt, where)
    if looks_like_chat(prompt):
        return _chat(columns.prompt, prompt, where)
    if prompt is not None or columns.prompt in fields:
        return PromptColumn("text", (columns.prompt,), prompt, False)
    return _recognised(data, fields, where)


def recognised_columns(data: DataConfig, columns: Collection[str]) -> list[str]:
    """The columns that are taken for the prompt without being configured."""
    chosen = chosen_columns(data)
    names = [c for c in CONVERSATIONS if c in columns and "messages" not in chosen]
    alpaca = INSTRUCTION in columns and (INPUT in columns or OUTPUT in columns)
    return [*names, INSTRUCTION] if alpaca and "prompt" not in chosen else names


def _recognised(data: DataConfig, fields: Mapping[str, Any], where: str) -> PromptColumn | None:
    names = recognised_columns(data, [k for k, v in fields.items() if v is not None])
    if len(names) > 1:
        raise bad_data(
            where,
            f"both {' and '.join(names)} could be the prompt; name one in columns.messages (chats) "
            "or columns.prompt (text)",
        )
    if not names:
        return None
    if names[0] != INSTRUCTION:
        return _chat(names[0], fields[names[0]], where)
    parts = [fields[INSTRUCTION], fields.get(INPUT)]
    if any(p is not None and not isinstance(p, str) for p in parts):
        raise bad_data(where, f"{INSTRUCTION} and {INPUT} must be text (got {parts!r:.200})")
    text = "\n\n".join(p for p in parts if p)
    return PromptColumn("Alpaca", (INSTRUCTION, INPUT, OUTPUT), text, False)


def _chat(name: str, value: Any, where: str) -> PromptColumn:
    as_text = " as JSON text" if isinstance(value, str) else ""
    items = parsed(value, name, where) if isinstance(value, str) and value.strip() else value
    first = items[0] if isinstance(items, list) and items else None
    form = "ShareGPT" if is_sharegpt(first) else "messages"
    return PromptColumn(form + as_text, (name,), items, True)
