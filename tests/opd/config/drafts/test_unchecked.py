"""Drafts with mistakes, as a form shows them and as YAML."""

import json

from opd.config.drafts.short_forms import with_overrides
from opd.config.drafts.unchecked import as_yaml, with_defaults
from opd.config.drafts.yaml_text import load_yaml
from opd.config.run import RunConfig, parse, to_yaml


def test_a_draft_has_every_field_and_keeps_its_mistakes():
    draft = with_defaults({"steps": "many", "stepz": 1, "teacher": "some/model", "prompts": 5})
    assert (draft["steps"], draft["stepz"], draft["seed"]) == ("many", 1, 0)
    assert draft["teacher"]["model"] == "some/model" and draft["teacher"]["kind"] == "model"
    assert draft["prompts"]["source"] == "bundled", "no section: its defaults"
    assert with_defaults({}) == RunConfig().model_dump(mode="json")
    routes = {"teacher": {"routes": {"a": "x/y"}}, "evaluation": {"suites": {"s": "rows.jsonl"}}}
    assert with_defaults(routes)["teacher"]["routes"] == {"a": {"model": "x/y"}}
    assert with_defaults(routes)["evaluation"]["suites"] == {"s": {"source": "rows.jsonl"}}


def test_values_of_yaml_that_json_lacks_are_text():
    text = "a: !!set {x}\nb: 2001-01-01\nc: .nan\nd: 99999999999999999999\ne: !!binary aGk=\n"
    draft = with_defaults(load_yaml(text))
    assert json.loads(json.dumps(draft, allow_nan=False))["d"] == "99999999999999999999"


def test_the_yaml_of_a_draft_says_only_what_differs():
    config = with_overrides({}, ["steps=3", "student.dtype=bfloat16", "evaluation.pass_at=[1]"])
    full = with_defaults(config)
    assert parse(load_yaml(as_yaml(full))) == parse(config)
    assert as_yaml(parse(config).model_dump(mode="json")) == to_yaml(parse(config))
    assert load_yaml(as_yaml(full | {"steps": 0, "seed": True})) == {
        "steps": 0,
        "seed": True,
        "student": {"dtype": "bfloat16"},
    }
    assert as_yaml({}) == "{}\n"


def test_whole_numbers_of_a_browser_are_the_defaults_that_they_were():
    sent = json.loads(json.dumps(with_defaults({"steps": 0})).replace(".0,", ","))
    assert isinstance(sent["teacher"]["timeout"], int), "JavaScript writes 60.0 as 60"
    assert load_yaml(as_yaml(sent)) == {"steps": 0}
