"""Rows that stand twice: equal except for whitespace and case, and no others."""

import pytest

from opd.data.mapping import Draft
from opd.data.overlap import key_of, overlaps, repeats, same_text, without


def draft(where, text=None, *chat):
    messages = tuple({"role": r, "content": c} for r, c in chat) or None
    return Draft({}, where, text, messages, None, None)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What is 1 + 2?", " what  is\n1+2 ?", True),
        ("Straße", "STRASSE", True),
        ("1 2", "12", False),
        ("3 11", "31 1", False),
        ("a b", "ab", False),
        ("a", "b", False),
    ],
)
def test_same_texts(one, other, same):
    assert (same_text(one) == same_text(other)) is same


def test_a_plain_prompt_is_the_chat_of_one_question():
    assert key_of(draft("x", "A b")) == key_of(draft("y", None, ("user", "a  B")))
    with_system = draft("y", None, ("system", "s"), ("user", "a b"))
    assert key_of(draft("x", "a b")) != key_of(with_system)


def test_overlaps_and_repeats():
    train = [draft("t:1", "a"), draft("t:2", "B "), draft("t:3", "c"), draft("t:4", "A")]
    evaluation = {
        "held-out": [draft("e:1", "b"), draft("e:2", "b")],
        "suite x": [draft("s:1", "z")],
    }
    (only,) = overlaps(train, evaluation)
    assert (only.evaluation, only.rows) == ("held-out", [("t:2", "e:1")])
    assert [d.where for d in without(train, [only])] == ["t:1", "t:3", "t:4"]
    assert repeats(train) == [("t:1", "t:4")]
