"""What each grader takes out of a completion, by hand values; `grade` compares just that."""

import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.grading.extraction import extract, last_number


def read(text):
    number = last_number(text)
    return number and (number.value, number.percent)


@pytest.mark.parametrize(
    ("grader", "pattern", "completion", "text"),
    [
        ("exact", None, "<think>5</think> 4\n", "4"),
        ("exact", None, "", ""),
        ("regex", r"Answer: (\w+)", "Answer: 3. Answer: 4", "4"),
        ("numeric", None, "<think>1</think> That makes $1,234.50 in all", "$1,234.50"),
        ("numeric", None, r"so \boxed{\frac{1}{2}} or 7", "1/2"),
        ("numeric", r"A: (.*);", "A: 4; or 5", "4"),
        ("math", None, r"\boxed{2}, no: \boxed{x^2}", "x^2"),
        ("json", None, '```json\n{"n": 2}\n```', '{"n": 2}'),
    ],
)
def test_what_is_extracted(grader, pattern, completion, text):
    assert extract(grader, pattern, completion).text == text


@pytest.mark.parametrize(
    ("grader", "pattern", "completion", "note"),
    [
        ("none", None, "4", "no grader"),
        ("regex", "x", "4", "no match"),
        ("numeric", None, "four", "no number"),
        ("numeric", r"A: (.*);", "4", "no match"),
        ("math", None, "it is 4", "math-verify reads"),
        ("math", None, r"\boxed{4", "no end"),
        ("tool_call", None, "I will call f", "no tool call"),
    ],
)
def test_nothing_extracted_says_why(grader, pattern, completion, note):
    extraction = extract(grader, pattern, completion)
    assert extraction.text is None and note in extraction.note


def test_tool_calls_are_extracted_as_they_are_compared():
    extraction = extract(
        "tool_call", None, '<tool_call>{"name": "f", "arguments": "{}"}</tool_call>'
    )
    assert json.loads(extraction.text) == extraction.value == [{"name": "f", "arguments": {}}]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so 1,234,567.5 in all.", "1234567.5"),
        ("12,3456", "3456"),
        ("$-5", "-5"),
        ("-$5", "-5"),
        ("−5 °C", "-5"),
        ("it is 10-3", "3"),
        ("x=-3.", "-3"),
        (".5", "1/2"),
        ("3/4.", "3/4"),
        ("-1 / 2", "-1/2"),
        ("1e-3.", "1/1000"),
        ("2 1/0", "2"),
        ("007", "7"),
        ("\\boxed{42}", "42"),
        ("none", None),
    ],
)
def test_last_number(text, value):
    number = read(text)
    assert (number and number[0]) == (value and Fraction(value))


@given(st.decimals(-(10**9), 10**9, places=3), st.integers(1, 99), st.text("ab .,", max_size=20))
def test_every_way_to_write_a_number(number, below, prefix):
    value = Fraction(str(number))
    assert read(f"{prefix} {number}.") == (value, False)
    assert read(f"{number:,}") == (value, False)
    assert read(f"{number}%") == (value, True)
    whole = int(number)
    assert read(f"{whole}/{below}") == (Fraction(whole, below), False)


@given(st.text(max_size=60))
def test_numbers_are_found_in_any_text_without_an_accident(text):
    number = last_number(text)
    assert number is None or isinstance(number[0], Fraction)
