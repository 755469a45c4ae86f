"""One model behind YAML, form and command line: bounds, unknown keys, overrides, round trips."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.config.drafts.yaml_text import load_yaml
from opd.config.recipes import recipe, recipes
from opd.config.run import VISIBLE_FIELDS, RunConfig, check_inputs, parse, to_yaml
from opd.errors import ConfigError, UserError


def problems(data):
    with pytest.raises(ConfigError) as caught:
        parse(data)
    return {p["field"]: p["message"] for p in caught.value.problems}


def test_misspelt_key_is_named_with_what_was_meant():
    assert "did you mean steps?" in problems({"stepps": 3})["stepps"]
    assert "learning_rate" in problems({"optimizer": {"learning_rat": 1}})["optimizer.learning_rat"]


def test_bad_values_name_field_value_and_limit():
    message = problems({"steps": -5})["steps"]
    assert "-5" in message
    assert "1" in message
    assert "nan" in problems({"sampling": {"temperature": math.nan}})["sampling.temperature"]
    assert problems({"device": "tpu"}).keys() == {"device"}
    assert problems({"objective": {"clip": 0.2}}).keys() == {"objective.clip"}
    assert problems([1]) and problems("text")
    assert problems({"optimizer": {"learning_rate": 1e308}}).keys() == {"optimizer.learning_rate"}


def test_an_end_by_score_needs_scores_while_the_run_trains():
    every = {"evaluation": {"every": 2}}
    for field, value in (("score", 0.8), ("patience", 3)):
        stop = {"stop": {field: value}}
        assert "evaluation.every" in problems(stop)[f"stop.{field}"]
        assert "grader" in problems(stop | every | {"prompts": {"grader": "none"}})[f"stop.{field}"]
        sampled = {"evaluation": {"every": 2, "samples": 4, "pass_at": [4]}}
        assert "pass@1" in problems(stop | sampled)[f"stop.{field}"]
        assert parse(stop | every).stop.model_dump()[field] == value
    assert parse({"stop": {"minutes": 0.5}}).stop.minutes == 0.5
    bad = {"stop": {"minutes": 0, "score": 1.5, "patience": 0, "hours": 1}}
    assert problems(bad).keys() == {f"stop.{n}" for n in ("minutes", "score", "patience", "hours")}


def test_inputs_that_are_not_there_stand_beside_their_fields(tmp_path):
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "config.json").write_text("{}")
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"")
    config = parse(
        {
            "student": "/no/such/folder",
            "teacher": str(tmp_path / "pickled"),
            "prompts": {"source": f"{tmp_path}/no.jsonl", "eval_source": "none.jsonl"},
        }
    )
    with pytest.raises(ConfigError) as caught:
        check_inputs(config)
    messages = {p["field"]: p["message"] for p in caught.value.problems}
    assert "/no/such/folder" in messages["student.model"]
    assert "pytorch_model.bin" in messages["teacher.model"]
    assert "no.jsonl" in messages["prompts.source"]
    assert "none.jsonl" in messages["prompts.eval_source"]
    check_inputs(parse({"student": "some/hub-id"}))
    check_inputs(parse({}))


def test_messages_speak_plainly():
    assert (
        problems({"device": "tpu"})["device"]
        == "must be auto, cpu, cuda, cuda:N or mps (got 'tpu')"
    )
    assert problems({"steps": 1e99})["steps"].startswith("must be a whole number")
    route = {"kind": "remote", "url": "b:8000", "key_variable": "my key"}
    for field, config in {
        "sampling.url": {"sampling": {"engine": "vllm", "url": "localhost:8000"}},
        "sampling.key_variable": {"sampling": {"engine": "vllm", "key_variable": "a b"}},
        "teacher.url": {"teacher": {"kind": "remote", "url": "http://a:8000/v1, b:8000"}},
        "teacher.routes.a.url": {"teacher": {"route_by": "task", "routes": {"a": route}}},
        "teacher.routes.a.key_variable": {"teacher": {"route_by": "task", "routes": {"a": route}}},
    }.items():
        said = problems(config)[field]
        assert ("environment variable" if "key" in field else "http://") in said
        assert "pattern" not in said and "(got '" in said


def test_a_check_over_fields_names_its_field_and_keeps_its_colons():
    assert problems({"teacher": {"kind": "remote"}}) == {
        "teacher.url": "a remote teacher needs its server's address"
    }
    suite = {"source": "x.jsonl", "grader": "regex"}
    assert problems({"evaluation": {"suites": {"more": suite}}}) == {
        "evaluation.suites.more.answer_pattern": "the grader regex needs the pattern of an answer"
    }
    schema = {"$ref": "other: schema"}
    messages = problems({"prompts": {"grader": "json", "json_schema": schema}})
    assert "'other: schema' is not within the schema" in messages["prompts.json_schema"]


@given(
    steps=st.integers(1, 10**6),
    rate=st.floats(1e-9, 1, exclude_min=True),
    name=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=200),
)
def test_yaml_round_trip(steps, rate, name):
    config = parse({"steps": steps, "name": name, "optimizer": {"learning_rate": rate}})
    assert parse(load_yaml(to_yaml(config))) == config
    assert parse(load_yaml(to_yaml(config, only_set=False))) == config


def test_every_recipe_is_valid_and_described():
    names = [r.name for r in recipes()]
    assert names == ["demo", *sorted(n for n in names if n != "demo")]
    for bundled in recipes():
        parse(bundled.config)
        assert bundled.title
        assert bundled.description
    with pytest.raises(UserError, match="demo"):
        recipe("no-such-recipe")


def test_every_field_has_help():
    def check(model, path=""):
        for name, field in model.model_fields.items():
            nested = [
                a
                for a in (field.annotation, *getattr(field.annotation, "__args__", ()))
                if hasattr(a, "model_fields")
            ]
            assert field.description or nested, path + name
            for inner in nested:
                check(inner, f"{path}{name}.")

    check(RunConfig)
    assert len(VISIBLE_FIELDS) <= 6


def test_a_teacher_is_held_as_the_student_computes_unless_it_says_otherwise():
    routes = {"a": {"dtype": "float32"}, "b": {}}
    config = parse(
        {"student": {"dtype": "bfloat16"}, "teacher": {"route_by": "kind", "routes": routes}}
    )
    dtypes = {field: teacher.dtype for field, teacher in config.teachers.items()}
    assert dtypes == {
        "teacher": "bfloat16",
        "teacher.routes.a": "float32",
        "teacher.routes.b": "bfloat16",
    }
    assert parse({}).teachers["teacher"].dtype == "float32"
    assert "dtype" not in to_yaml(parse({}))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"objective": "sft"}, "sampling.source"),
        ({"sampling": {"source": "given"}}, "sampling.source"),
        ({"sampling": {"teacher_share": 0.5}}, "sampling.teacher_share"),
        ({"devices": 2}, "devices"),
        ({"device": "mps"}, "device"),
        ({"student": {"quantize": "int8", "lora": {}}}, "student.quantize"),
        ({"student": "models/small.Q8_0.gguf"}, "student.model"),
    ],
)
def test_vllm_writes_only_what_the_student_alone_writes(settings, field):
    sampling = settings.get("sampling", {})
    parse({**settings, "sampling": {**sampling, "engine": "local"}})
    with pytest.raises(ConfigError, match="engine vllm needs") as caught:
        parse({**settings, "sampling": {**sampling, "engine": "vllm"}})
    assert field in [p["field"] for p in caught.value.problems]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"student": {"quantize": "int8", "lora": {}}}, "student.quantize"),
        ({"student": {"weights": "bfloat16", "dtype": "bfloat16"}}, "student.weights"),
        ({"student": "models/small.Q8_0.gguf"}, "student.model"),
        ({"teacher": "models/small.Q8_0.gguf"}, "teacher.model"),
        ({"teacher": {"quantize": "int4"}}, "teacher.quantize"),
        ({"teacher": {"offload": True}}, "teacher.offload"),
        ({"teacher": {"kind": "ema"}}, "teacher.kind"),
        ({"optimizer": {"name": "adamw_8bit"}}, "optimizer.name"),
        ({"optimizer": {"compile": True}}, "optimizer.compile"),
        ({"sampling": {"engine": "vllm"}}, "sampling.engine"),
    ],
)
def test_what_cannot_be_cut_among_processes_is_refused_at_its_field(settings, field):
    parse(settings)
    with pytest.raises(ConfigError, match="sharding full needs") as caught:
        parse({**settings, "sharding": "full"})
    assert field in [p["field"] for p in caught.value.problems]
