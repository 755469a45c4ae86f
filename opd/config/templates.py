"""Templates over a row's fields: `{name}` stands for a field, `{{` and `}}` for braces.

Names only: no attributes, indices, formats or conversions, so that a template shows data and never
reaches into it. Free of torch.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any

from opd.errors import UserError

PART = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
NAME = re.compile(r"[^\W\d][\w-]*")
# What the product itself gives to a chat template, or what would change more than a template.
RESERVED_ARGS = (
    *("messages", "conversation", "tools", "documents", "chat_template"),
    *("add_generation_prompt", "continue_final_message", "return_assistant_tokens_mask"),
    *("tokenize", "tokenizer_kwargs", "sanitize_control_tokens", "return_dict", "return_tensors"),
    *("padding", "truncation", "max_length"),
)
WHOLE_BELOW = 10**15  # floats up to here are exact whole numbers, and are written as such


def fields_of(template: str) -> tuple[str, ...]:
    """The fields named in a template, each once, in order. Raises ValueError for bad syntax."""
    return tuple(dict.fromkeys(text for text, is_field in _parts(template) if is_field))


def render(template: str, row: Mapping[str, Any], *, where: str = "template") -> str:
    """The template with the row's values in it.

    Raises UserError, at `where`, for a field that the row does not have or has no value for.
    """
    return "".join(
        _value(text, row, where) if is_field else text for text, is_field in _parts(template)
    )


def as_text(value: Any) -> str | None:
    """Text as it is, numbers without needless zeros (4.0 is "4"), dates in ISO 8601; else None."""
    if isinstance(value, str):
        return value
    if isinstance(value, Decimal) and value.is_finite():
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < WHOLE_BELOW:
        return str(int(value))
    return str(value)


def check_template_args(args: Mapping[str, Any]) -> None:
    """Raises ValueError for a chat template's variable that is not the user's to set."""
    for name in args:
        if name in RESERVED_ARGS:
            raise ValueError(f"{name} is set by the program; name only variables of the template")


def _parts(template: str) -> Iterator[tuple[str, bool]]:
    """(text, False) and (field's name, True), in order."""
    for part in PART.finditer(template):
        whole, name = part[0], part[1]
        if name is not None:
            if not NAME.fullmatch(name):
                raise ValueError(
                    f"{whole[:60]} is not a field; write a plain name such as {{prompt}}, and "
                    "{{ or }} for a brace"
                )
            yield name, True
        elif whole in ("{", "}"):
            raise ValueError(
                f"a single {whole} at character {part.start() + 1}; write {whole * 2} for a brace"
            )
        else:
            yield whole[:1] if whole in ("{{", "}}") else whole, False


def _value(name: str, row: Mapping[str, Any], where: str) -> str:
    if name not in row:
        raise UserError(f"no field {name!r}; the row has {', '.join(row)}"[:1000], where=where)
    value = row[name]
    if value is None:
        raise UserError(f"the row has no value for {name!r}", where=where)
    text = as_text(value)
    return text if text is not None else json.dumps(value, ensure_ascii=False, default=str)
