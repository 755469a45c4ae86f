"""Rows that stand twice: in training and in an evaluation, or more than once in training.

Rows are the same whose prompts are, except for whitespace and case: a chat by all its messages, a
plain prompt as the chat of one question.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opd.data.mapping import Draft

BETWEEN_WORDS = re.compile(r"(?<=\w)\s+(?=\w)")
BLANKS = re.compile(r"(?<!\w)\s+|\s+(?!\w)")
Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Overlap:
    """Training rows that are also in an evaluation: (where in training, where there)."""

    evaluation: str
    rows: Sequence[tuple[str, str]]


def same_text(text: str) -> str:
    """What is the same of texts that differ in blanks and case: "1 + 2" and "1+2", not "12"."""
    return BLANKS.sub("", BETWEEN_WORDS.sub(" ", text.strip())).casefold()


def key_of(draft: Draft) -> Key:
    if draft.messages is None:
        return (("user", same_text(draft.text or "")),)
    return tuple(
        (str(m["role"]), same_text(f"{m['content']}{m.get('tool_calls') or ''}"))
        for m in draft.messages
    )


def overlaps(train: Sequence[Draft], evaluation: Mapping[str, Sequence[Draft]]) -> list[Overlap]:
    """Per evaluation, the training rows that stand in it; evaluations without any are left out."""
    keys = [key_of(draft) for draft in train]
    common = []
    for name, drafts in evaluation.items():
        places = {key_of(draft): draft.where for draft in reversed(drafts)}
        rows = [(d.where, places[k]) for d, k in zip(train, keys, strict=True) if k in places]
        if rows:
            common.append(Overlap(name, rows))
    return common


def without(train: Sequence[Draft], common: Sequence[Overlap]) -> list[Draft]:
    """The training rows that stand in no evaluation, by their overlaps."""
    held = {where for overlap in common for where, _ in overlap.rows}
    return [draft for draft in train if draft.where not in held]


def repeats(train: Sequence[Draft]) -> list[tuple[str, str]]:
    """(first, again) of rows that occur more than once."""
    first: dict[Key, str] = {}
    again = []
    for draft in train:
        where = first.setdefault(key_of(draft), draft.where)
        if where is not draft.where:
            again.append((where, draft.where))
    return again
