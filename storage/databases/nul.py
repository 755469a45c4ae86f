"""Text with NUL characters, which PostgreSQL cannot hold: they are stored as two characters, and
come back as they were."""

import re
from collections.abc import Callable
from typing import Any

from sqlalchemy import Dialect, TypeDecorator
from sqlalchemy import Text as PlainText

NUL = "\0"
MARK = "\U0010ffff"  # a noncharacter, which no text is meant to have
_ESCAPED_NUL, _ESCAPED_MARK = f"{MARK}0", f"{MARK}{MARK}"
_PAIR = re.compile(f"{MARK}(.?)", re.DOTALL)
_JSON_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


def escaped(text: str) -> str:
    """The text without NUL."""
    if NUL not in text and MARK not in text:
        return text
    return text.replace(MARK, _ESCAPED_MARK).replace(NUL, _ESCAPED_NUL)


def restored(text: str) -> str:
    """What was `escaped`."""
    return _replaced(text, NUL) if MARK in text else text


def escaped_json(text: str) -> str:
    """As `escaped`, of JSON, which spells NUL `\\u0000`."""
    if MARK not in text and "\\u0000" not in text:
        return text
    text = text.replace(MARK, _ESCAPED_MARK)
    return _JSON_NUL.sub(lambda match: match[1] + _ESCAPED_NUL, text)


def restored_json(text: str) -> str:
    """What was `escaped_json`."""
    return _replaced(text, "\\u0000") if MARK in text else text


def _replaced(text: str, nul: str) -> str:
    return _PAIR.sub(lambda match: {"0": nul, MARK: MARK}.get(match[1], match[0]), text)


class Text(TypeDecorator[str]):
    """Text of any characters; on SQLite a plain one."""

    impl = PlainText
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any] | None:
        return None if dialect.name == "sqlite" else _of_optional(escaped)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        return None if dialect.name == "sqlite" else _of_optional(restored)


def _of_optional(change: Callable[[str], str]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else change(value)
