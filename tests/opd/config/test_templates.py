"""Templates show a row's fields and reach no further."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.config.run import parse
from opd.config.templates import as_text, fields_of, render
from opd.errors import ConfigError, UserError

ROW = {"prompt": "How many?", "answer": 4.0, "hint-2": None, "tags": ["a", "é"], "größe": True}


def test_fields_and_braces():
    assert fields_of("{{{prompt}}} {answer} {prompt}") == ("prompt", "answer")
    assert render("{{{prompt}}} is {answer}", ROW) == "{How many?} is 4"
    assert render('{{"tags": {tags}}} {größe}', ROW) == '{"tags": ["a", "é"]} true'


@given(st.text())
def test_escaped_text_comes_out_as_it_is(text):
    escaped = text.replace("{", "{{").replace("}", "}}")
    assert render(escaped, {}) == text
    assert fields_of(escaped) == ()


@given(st.text())
def test_values_are_not_templates(value):
    assert render("<{prompt}>", {"prompt": value}) == f"<{value}>"


@pytest.mark.parametrize(
    "template",
    ["{", "a } b", "{}", "{0}", "{a.b}", "{a[0]}", "{a!r}", "{a:>9}", "{a: b}", "{ a }", "{{a}"],
)
def test_what_is_no_template(template):
    with pytest.raises(ValueError, match="brace"):
        fields_of(template)
    with pytest.raises(ConfigError) as caught:
        parse({"prompts": {"prompt_template": template}, "teacher": {"system": template}})
    assert {p["field"] for p in caught.value.problems} == {
        "prompts.prompt_template",
        "teacher.system",
    }


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(UserError, match=r"teacher\.prompt: no field 'hint'.*prompt, answer"):
        render("{hint}", ROW, where="teacher.prompt")
    with pytest.raises(UserError, match="no value for 'hint-2'"):
        render("{hint-2}", ROW)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (4, "4"),
        (4.0, "4"),
        (-0.5, "-0.5"),
        (1e300, "1e+300"),
        (float("nan"), None),
        (True, None),
        (None, None),
        ([1], None),
    ],
)
def test_numbers_as_text(value, text):
    assert as_text(value) == text
