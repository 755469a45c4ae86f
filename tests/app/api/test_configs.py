"""Drafts of configurations: every mistake at its line, and the form's and the YAML's view of it."""

import pytest

from app.api.http.replies import MAX_PROBLEMS
from opd.config.drafts.yaml_text import MAX_YAML_BYTES, load_yaml
from tests.support.api_client import Api

TEN = """# my run
steps: 0
stepz: 3
seed: -1
device: tpu
student:
  dtype: float64
  modle: x
optimizer:
  learning_rate: 7
sampling:
  temperature: hot
  stop_ids: [1, -2]
evaluation:
  suites: {s: {count: 0}}
"""


def check(api: Api, **body: object) -> dict:
    answer = api("POST", "/config/check", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_ten_errors_are_ten_each_with_field_value_limit_and_line(api: Api) -> None:
    answer = check(api, yaml=TEN)
    problems = {p["field"]: (p["line"], p["message"]) for p in answer["problems"]}
    lines = TEN.splitlines()
    assert len(problems) == len(answer["problems"]) == 10 and not answer["ok"]
    for field, (line, message) in problems.items():
        assert field.split(".")[-1] in lines[line - 1] or field == "sampling.stop_ids.1"
        assert "got" in message or "did you mean" in message or "'float32'" in message
    assert problems["sampling.stop_ids.1"] == (
        13,
        "Input should be greater than or equal to 0 (got -2)",
    )
    assert "did you mean model?" in problems["student.modle"][1]
    assert answer["draft"]["config"]["steps"] == 0 and answer["draft"]["config"]["stepz"] == 3
    assert answer["draft"]["config"]["sampling"]["max_new_tokens"] == 64
    assert answer["config"] is None and answer["yaml"] is None


def test_checks_across_fields_are_all_told(api: Api) -> None:
    text = (
        "objective: grpo\nprompts: {grader: none}\nsampling:\n  group_size: 1\nstop:\n  score: 1\n"
    )
    lines = {p["field"]: p["line"] for p in check(api, yaml=text)["problems"]}
    assert lines == {"prompts.grader": 2, "sampling.group_size": 4, "stop.score": 6}


def test_mistakes_of_the_form_stand_at_lines_of_the_yaml_that_goes_with_it(api: Api) -> None:
    answer = check(api, config={"steps": 3, "optimizer": {"beta1": 2}, "seed": 0})
    assert load_yaml(answer["draft"]["yaml"]) == {"steps": 3, "optimizer": {"beta1": 2}}
    assert [(p["field"], p["line"]) for p in answer["problems"]] == [("optimizer.beta1", 3)]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [", 1),
        ("a: 1\na: 2", 2),
        ("a: \x07", 1),
        ("x" * MAX_YAML_BYTES, 1),
        ("é" * 40_000, None),
    ],
)
def test_text_that_is_no_mapping_has_no_draft(api: Api, text: str, line: int | None) -> None:
    answer = check(api, yaml=text)
    assert [p["line"] for p in answer["problems"]] == [line] and answer["draft"] is None


def test_what_is_left_out_of_a_long_list_is_counted(api: Api) -> None:
    answer = check(api, config={f"x{n}": n for n in range(MAX_PROBLEMS + 7)})
    assert len(answer["problems"]) == MAX_PROBLEMS + 1
    assert answer["problems"][-1] == {
        "field": "",
        "message": "7 more problems are not listed",
        "line": None,
    }


def test_values_that_json_lacks_are_shown_as_text(api: Api) -> None:
    answer = check(api, yaml="a: !!set {x}\nb: 2001-01-01\nc: .nan\nd: 99999999999999999999\n")
    assert answer["draft"]["config"]["d"] == "99999999999999999999"
    assert len(answer["problems"]) == 4
    assert api("POST", "/config/check", {"yaml": "x" * 64_001}).status_code == 422
    assert check(api, config={"x": [[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]})["draft"] is None
