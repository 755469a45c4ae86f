"""Graders by hand values; odd texts are wrong, never an accident."""

import json
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opd.config.data import DataConfig
from opd.config.run import parse
from opd.errors import ConfigError, UserError
from opd.grading import graders, math_process
from opd.grading.extraction import MAX_TEXT
from opd.grading.graders import grade

ODD = ["", "   ", "</think>", "{" * 5000, "[" * 100_000, "$" * 3000, "1," * 9000, "9" * 19_000]


def data(grader, **fields):
    return DataConfig.model_validate({"grader": grader, **fields})


def right(settings, completion, answer):
    reward = grade(settings, completion, answer)
    assert reward in (0.0, 1.0)
    return reward == 1.0


def test_exact_looks_behind_the_last_thought():
    assert right(data("exact"), "<think>5</think> 4\n", "4")
    assert right(data("exact"), " 4 ", "4")
    assert not right(data("exact"), "<think>4</think> 5", "4")
    assert not right(data("exact"), "4.0", "4")


def test_no_grader_and_no_answer_give_no_reward():
    assert grade(data("none"), "4", "4") is None
    assert grade(data("exact"), "4", None) is None
    assert grade(data("json"), "4", None) == 1.0


@pytest.mark.parametrize("completion", ODD)
@pytest.mark.parametrize("grader", ["exact", "numeric", "math", "json", "tool_call"])
def test_odd_texts_are_wrong(grader, completion):
    answer = '{"name": "f", "arguments": {}}' if grader == "tool_call" else "7"
    assert not right(data(grader), completion, answer)


def test_regex_takes_last_match_and_last_group():
    settings = data("regex", answer_pattern=r"(Answer|Result): (\w+)|final=(\w+)")
    assert right(settings, "Answer: 3. Result: 4", "4")
    assert right(settings, "Answer: 3. final=9", " 9 ")
    assert not right(settings, "Answer: 4. Result: 3", "4")
    assert not right(settings, "4", "4")
    assert right(data("regex", answer_pattern=r"\d+$"), "3 4", "4")
    assert not right(data("regex", answer_pattern="4"), "4" + "x" * MAX_TEXT, "4")


def test_numeric():
    assert right(data("numeric"), "<think>1</think> That makes $1,234.50", "1234.5")
    assert not right(data("numeric"), "4 or 5", "4")
    assert right(data("numeric", answer_pattern=r"A: (.*);"), "A: 4; or 5", "4")
    assert not right(data("numeric", answer_pattern=r"A: (.*);"), "4", "4")
    # 0.3 − 0.1 = 0.2 exactly, which it is not in binary
    assert right(data("numeric", tolerance=0.2), "0.3", "0.1")
    assert not right(data("numeric", tolerance=0.2), "0.3000000000000000001", "0.1")
    assert right(data("numeric"), "50%", "0.5")
    assert right(data("numeric"), "50 %", "50")
    assert right(data("numeric"), "0.5", "50%")
    assert not right(data("numeric"), "0.5%", "50%")


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5", True),
        (r"Hence $x = 3$.", "3", True),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", True),
        (r"<think>\boxed{4}</think> it is \boxed{5}", "4", False),
        (r"\boxed{\{1, 2\}}", r"$\{2, 1\}$", True),
        (r"\boxed{2^{2024}}", "2^{2024}", True),
        (r"\boxed{", "3", False),
    ],
)
def test_math(completion, answer, expected):
    assert right(data("math"), completion, answer) is expected


def test_math_that_does_not_end_is_wrong_in_any_thread(monkeypatch):
    monkeypatch.setattr(math_process, "DEADLINE", 1.0)
    rewards = []
    endless = r"\boxed{\sum_{i=1}^{10000000}\frac{1}{i}}"
    thread = threading.Thread(target=lambda: rewards.append(grade(data("math"), endless, "7")))
    thread.start()
    thread.join(30)
    assert rewards == [0.0]
    monkeypatch.setattr(math_process, "DEADLINE", 30.0)
    assert right(data("math"), "8", "8")  # by a new process


def test_a_grader_that_does_not_start_is_named(monkeypatch):
    monkeypatch.setattr(math_process, "_process", math_process._Process())
    monkeypatch.setattr(math_process.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"math failed .* on the completion '41'") as caught:
        grade(data("math"), "41", "8")
    assert caught.value.kind == "grader failed"


def test_json():
    schema = {
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/n"}},
        "required": ["n"],
        "$defs": {"n": {"type": "integer", "minimum": 1}},
    }
    settings = data("json", json_schema=schema)
    assert right(settings, '<think>{</think>{"n": 2}', None)
    assert right(settings, '```json\n{"n": 2}\n```', None)
    assert not right(settings, 'Here: {"n": 2}', None)
    assert not right(settings, '{"n": 0}', None)
    assert not right(settings, '{"n": NaN}', None)
    assert right(settings, '{"n": 2}', '{"n": 2.0}')
    assert not right(settings, '{"n": 2}', '{"n": 3}')
    assert not right(data("json"), "[true]", "[1]")


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    )
)
def test_json_equals_itself_however_written(value):
    assert right(data("json"), json.dumps(value, indent=2), json.dumps(value))
    assert not right(data("json"), json.dumps([value]), json.dumps(value))


def test_tool_calls():
    answer = '{"name": "f", "arguments": {"x": 1, "y": [2]}}'
    call = '<tool_call>\n{"arguments": {"y": [2], "x": 1.0}, "name": "f"}\n</tool_call>'
    settings = data("tool_call")
    assert right(settings, f"I will call it. {call}", answer)
    assert right(settings, answer, answer)
    assert right(settings, '{"name": "f", "arguments": "{\\"x\\": 1, \\"y\\": [2]}"}', answer)
    assert not right(settings, call.replace("1.0", "true"), answer)
    assert not right(settings, call.replace('"f"', '"g"'), answer)
    assert not right(settings, call + call, answer)
    two = '[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {}}]'
    f, g = (f'<tool_call>{{"name": "{n}", "arguments": {{}}}}</tool_call>' for n in "fg")
    assert right(settings, f + g, two)
    assert not right(settings, g + f, two)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"answer_pattern": "("}, "answer_pattern", "not a valid regular expression"),
        ({"answer_in_data": "a" * 1001}, "answer_in_data", "1000"),
        ({"grader": "regex"}, "answer_pattern", "needs the pattern"),
        ({"json_schema": {"type": "strin"}}, "json_schema", "not a valid JSON schema"),
        ({"json_schema": {"$ref": "http://x.y/z"}}, "json_schema", "not fetched"),
        ({"json_schema": {"items": {"$ref": "#/$defs/q"}}}, "json_schema", "#/$defs/q"),
    ],
)
def test_settings_of_graders_are_checked_beforehand(fields, field, message):
    with pytest.raises(ConfigError) as caught:
        parse({"prompts": fields})
    assert [p["field"] for p in caught.value.problems] == [f"prompts.{field}"]
    assert message in caught.value.problems[0]["message"]


def test_answers_that_can_never_be_given():
    assert "number" in graders.problem_of(data("numeric"), "none")
    assert "JSON" in graders.problem_of(data("json"), "{")
    assert "name" in graders.problem_of(data("tool_call"), "[1]")
    assert "math-verify" in graders.problem_of(data("math"), "")
    for grader, answer in [("numeric", "4"), ("json", "4"), ("math", "4"), ("exact", "?")]:
        assert graders.problem_of(data(grader), answer) is None
