"""What kind of text a token is: word, number, operator, whitespace, special, thinking or other."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from storage.vocabulary import Texts

TokenClass = Literal["word", "number", "operator", "whitespace", "special", "thinking", "other"]
CLASSES: tuple[TokenClass, ...] = get_args(TokenClass)
_THINKING = re.compile(r"\s*</?(think|thinking|thought|reasoning)>\s*", re.IGNORECASE)
_MARKER = re.compile(r"\s*(<\|[^|<>]+\|>|</?s>|<(bos|eos|pad|unk)>|\[(CLS|SEP|PAD|UNK)\])\s*")
_PARTS = ("Mn", "Mc", "Me")  # marks that join the character before them


def class_of(data: bytes, special: bool = False) -> str:
    """The class of a token by its bytes.

    A part of a character split over several tokens, an emoji and a text of no characters are
    "other"; letters decide over digits, and digits over punctuation beside them.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "special" if special else "other"
    if _THINKING.fullmatch(text):
        return "thinking"
    if special or _MARKER.fullmatch(text):
        return "special"
    if not text:
        return "other"
    return _plain_class(text.strip())


def _plain_class(text: str) -> str:
    if not text:
        return "whitespace"
    if any(c.isalpha() for c in text):
        return "word"
    if any(c.isnumeric() for c in text):
        return "number"
    categories = {unicodedata.category(c) for c in text} - set(_PARTS)
    if categories and all(c[0] in "PS" and c != "So" for c in categories):
        return "operator"
    return "other"


def codes_of(ids: NDArray[np.int64], texts: Texts) -> NDArray[np.int8]:
    """Place in CLASSES for each of `ids` (n,); an id of unknown text is "other"."""
    named = (class_of(*texts[i]) if i in texts else "other" for i in _plain(ids))
    return np.fromiter((CLASSES.index(name) for name in named), np.int8, len(ids))


def _plain(ids: NDArray[np.int64]) -> Iterable[int]:
    return (int(i) for i in ids)
