"""Text as it is stored, and token bytes as text."""

import codecs
from collections.abc import Iterable
from typing import Any


def clean(text: str) -> str:
    """The text with what cannot be stored as UTF-8 (lone surrogates) replaced."""
    return text.encode("utf-8", "replace").decode() if not text.isascii() else text


def joined_texts(parts: Iterable[bytes]) -> list[str]:
    """A text for each token such that they join to the whole text: a character split over several
    tokens stands with the last of them."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return [decoder.decode(part) for part in parts]


def token_text(data: bytes) -> str:
    """The text of one token by itself; bytes that are no character by themselves as \\xNN."""
    return data.decode("utf-8", "backslashreplace")


def text_entry(stored: tuple[bytes, bool] | None) -> dict[str, Any]:
    """A token's (bytes, special) as pages read it; None: a token of unknown text.

    "t" is its text; where its bytes are no UTF-8 by themselves, "t" is None and "b" holds them in
    hex. "s" marks special tokens.
    """
    if stored is None:
        return {"t": None}
    data, special = stored
    try:
        entry: dict[str, Any] = {"t": data.decode()}
    except UnicodeDecodeError:
        entry = {"t": None, "b": data.hex()}
    return {**entry, "s": True} if special else entry
