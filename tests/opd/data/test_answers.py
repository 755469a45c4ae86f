"""Answers of every type as text; several right ones as a list; the rest refused by row."""

from datetime import date
from decimal import Decimal

import pytest

from opd.data.answers import answer_of, several
from opd.errors import UserError
from opd.grading.graders import right_answers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("x", "x"),
        (3, "3"),
        (3.0, "3"),
        (0.25, "0.25"),
        (Decimal("1.50"), "1.5"),
        (Decimal("200.00"), "200"),
        (Decimal("1E+3"), "1000"),
        (date(2026, 1, 2), "2026-01-02"),
        (None, None),
        (["x"], "x"),
        (["x", "x"], "x"),
        (["x", "ü"], '["x", "ü"]'),
        ([1, 2.0], '["1", "2"]'),
        ({"value": "a", "aliases": ["b", "a"]}, '["a", "b"]'),
        ({"text": ["a", "b"], "answer_start": [1, 2]}, '["a", "b"]'),
    ],
)
def test_as_text(value, text):
    assert answer_of(value, "exact", "a:1") == text


@pytest.mark.parametrize(
    "value", [True, [True], [None], [], {"a": 1}, [["a"]], float("nan"), b"a", Decimal("NaN")]
)
def test_refused(value):
    with pytest.raises(UserError, match=r"a:1: answer (must be|is an empty)"):
        answer_of(value, "exact", "a:1")


def test_json_values_stay_whole():
    assert answer_of(["a", "b"], "json", "a:1") == '["a", "b"]'
    assert answer_of(True, "json", "a:1") == "true"
    assert answer_of('{"a": 1}', "json", "a:1") == '{"a": 1}'
    assert answer_of(7, "json", "a:1") == "7"


def test_several_are_given_back():
    assert right_answers("exact", several(["a", "b", "a"])) == ("a", "b")
    assert right_answers("exact", several(["a"])) == ("a",)
