"""The table of objectives: complete, consistent, and free of torch and of the configuration."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from opd.config.run import RunConfig, parse
from opd.config.sections import ObjectiveConfig
from opd.errors import ConfigError
from opd.loss.counterfactual import COLUMN_TEXTS, LabSettings
from opd.loss.objective_table import (
    LAB_PARAMETERS,
    OBJECTIVES,
    PARAMETERS,
    TRAINABLE,
    described,
    owners,
    refusal,
)

ROOT = Path(__file__).parents[3]
ENTRIES = OBJECTIVES.values()


def test_importing_the_table_loads_neither_torch_nor_the_configuration():
    code = (
        "import sys, opd.loss.objective_table; "
        "print([m for m in sys.modules if m == 'torch' or m.startswith('opd.config')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_default_comes_first_and_what_only_the_lab_has_last():
    assert next(iter(OBJECTIVES)) == ObjectiveConfig().name == "reverse_kl"
    assert [name for name in OBJECTIVES if name not in TRAINABLE] == ["cross_entropy"]
    assert next(reversed(OBJECTIVES)) == "cross_entropy"


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
def test_every_entry_has_its_words(entry):
    assert entry.label and entry.formula and entry.certainty and entry.help.endswith(".")
    assert bool(entry.method) == (entry.loss is not None)
    assert {*entry.columns, *entry.one_of} <= set(COLUMN_TEXTS)


def test_no_two_entries_share_a_label_or_a_form_text():
    for words in ("label", "help"):
        assert len({getattr(e, words) for e in ENTRIES}) == len(OBJECTIVES)


def test_a_parameter_of_one_name_is_one_parameter():
    for entry in ENTRIES:
        for parameter in entry.parameters:
            assert PARAMETERS[parameter.name] is parameter
            assert entry.name in owners(parameter)


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=lambda p: p.name)
def test_settings_and_lab_take_the_parameter_within_its_limits(parameter):
    field = ObjectiveConfig.model_fields[parameter.name]
    assert field.default == parameter.default
    assert field.json_schema_extra["only_for"] == list(owners(parameter))
    bad = parameter.limits["le"] + 1 if "le" in parameter.limits else parameter.limits["lt"]
    with pytest.raises(ValidationError):
        ObjectiveConfig.model_validate({parameter.name: bad})
    if parameter.lab_name:
        assert getattr(LabSettings(), parameter.lab_name) is None
        with pytest.raises(ValidationError):
            LabSettings.model_validate({parameter.lab_name: bad})


def test_in_the_lab_zero_stands_for_no_clip():
    config = ObjectiveConfig(name="grpo", clip=0.2)
    assert LabSettings().over(config).clip == 0.2
    assert LabSettings(ratio_clip=0).over(config).clip is None
    assert LabSettings(ratio_clip=0.3).over(config).clip == 0.3


def test_the_old_name_of_a_mask_is_still_read():
    assert LabSettings(mask="sure_coach") == LabSettings(mask="sure_teacher")


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ({"clip": 0.2}, "only policy_gradient and grpo have an importance ratio to clip"),
        ({"ratio_cap": 2}, "only policy_gradient and grpo have an importance ratio to truncate"),
        ({"gamma": 0.5}, "only policy_gradient has advantages over time (reverse_kl)"),
        ({"reference_kl": 0.1}, "only grpo takes it (reverse_kl)"),
        ({"name": "sft", "reward_weight": 1}, "is for distillation objectives (sft)"),
    ],
)
def test_what_may_not_stand_beside_an_objective_is_refused_by_name(objective, message):
    with pytest.raises(ConfigError) as caught:
        parse({"objective": objective})
    field = next(name for name in objective if name != "name")
    theirs = [p for p in caught.value.problems if p["field"] == f"objective.{field}"]
    assert theirs == [{"field": f"objective.{field}", "message": message}]


def test_parameters_without_a_refusal_are_ignored_elsewhere():
    for parameter in PARAMETERS.values():
        if not parameter.elsewhere:
            assert refusal(parameter, "sft") == ""
    assert parse({"objective": {"name": "sft", "beta": 0.3}}).objective.beta == 0.3


def test_pages_are_told_every_objective_and_lab_parameter():
    description = described()
    assert [o["name"] for o in description["objectives"]] == list(OBJECTIVES)
    assert {o["name"] for o in description["objectives"] if o["signed"]} == {
        "policy_gradient",
        "grpo",
    }
    assert [p["name"] for p in description["parameters"]] == list(LAB_PARAMETERS)
    [skew] = [p for p in description["parameters"] if p["name"] == "skew"]
    assert (skew["min"], skew["max"], skew["step"]) == (0, 0.99, 0.05)
    [clip] = [p for p in description["parameters"] if p["name"] == "ratio_clip"]
    assert (clip["min"], clip["objectives"]) == (0, ("policy_gradient", "grpo"))


def test_no_script_of_the_pages_names_an_objective():
    """Metric keys (reverse_kl) are no objectives and stay."""
    names = [f'"{name}"' for name in OBJECTIVES if name != "reverse_kl"]
    for path in (ROOT / "app" / "static").rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        assert not [name for name in names if name in text], path.name


def test_the_configuration_knows_its_entry():
    config = parse({"objective": "sft"})
    assert config.objective_entry is OBJECTIVES["sft"]
    assert (config.author, config.needs, config.objective.uses_rewards) == (
        "teacher",
        "nothing",
        False,
    )
    assert parse({"objective": "grpo"}).objective.uses_rewards
    assert RunConfig().author == "student"
