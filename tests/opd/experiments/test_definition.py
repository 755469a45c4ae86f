"""Definitions of experiments: what is refused, and what becomes of them as runs."""

import json
from pathlib import Path
from typing import Any

import pytest

from opd.errors import UserError
from opd.experiments.definition import (
    experiment,
    merged,
    parse_experiment,
    references,
    with_settings,
)
from tests.support.experiment_definition import data, definition


def arms(**changes: dict[str, Any]) -> dict[str, Any]:
    listed: dict[str, Any] = data()["arms"]
    return {name: {**arm, **changes.get(name, {})} for name, arm in listed.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": {"arm": "sft"}}, "target.arm: no arm 'sft'; there are rl, opd"),
        ({"target": {}}, "target.value: give either value or arm"),
        ({"target": {"arm": "rl", "value": 0.5}}, "give either value or arm"),
        ({"pairs": [{"over": "rl", "under": "x"}]}, "pairs.0.under: no arm 'x'"),
        ({"arms": arms(rl={"config": {"teacher": "arm:opd"}})}, "arm:opd must come before rl"),
        ({"common": {"student": "arm:opd"}}, "arm:opd must come before rl"),
        ({"tuning": {"config": {"student": "arm:rl"}}}, "arm:rl must come before rl"),
        ({"quick": {"config": {"teacher": "arm:opd"}}}, "arm:opd must come before rl"),
        ({"arms": {**arms(), "start": {"label": "S"}}}, "'start' is reserved for the first"),
        ({"target": None}, "pairs: cost ratios need a target"),
        ({"common": {**data()["common"], "seed": 7}}, "common.seed: each run gets its"),
        ({"arms": arms(rl={"config": {"seed": 7}})}, "arms.rl.config.seed: each run gets its"),
        ({"arms": arms(rl={"sweep": {}})}, "best: needs a sweep"),
        ({"arms": arms(rl={"best": {}})}, "best: must be one of the sweep's combinations"),
        ({"arms": arms(rl={"sweep": {"steps": list(range(1, 18))}})}, "at most 16 combinations"),
        ({"arms": arms(rl={"config": {"objektive": "grpo"}})}, "did you mean objective?"),
        ({"arms": arms(rl={"config": {"steps": 0}})}, "arms.rl.config: steps: Input should be"),
        ({"tuning": {"config": {"steps": 0}}}, "steps: Input should be greater"),
        ({"quick": {"config": {"steps": 0}}}, "steps: Input should be greater"),
        ({"arms": arms(rl={"label": "OPD"})}, "labels must be unique"),
        ({"arms": {}}, "arms: Dictionary should have at least 1 item"),
        ({"seeds": 51}, "seeds: Input should be less than or equal to 50"),
        ({"metric": "score"}, "metric: String should match"),
        ({"nonsense": 1}, "nonsense: Extra inputs are not permitted"),
        ({"metric": "hardout/pass@1"}, "hardout/pass@1 is not measured by any of its evaluations"),
        (
            {"quick": {"config": {"evaluation": {"temperatures": [0.0]}}}},
            "(suites heldout, far at temperature 0)",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_by_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_experiment(data(**changes))
    assert message in str(refused.value)


def test_arms_are_laid_over_the_common_configuration() -> None:
    small = definition()
    choice = {"optimizer.learning_rate": 0.002}
    made = small.run_config("opd", choice, seed=7, runs={"rl": "run-abc"})
    assert made.seed == 7
    assert made.teacher.model == "run-abc"
    assert (made.steps, made.device, made.checkpoints.every) == (3, "cpu", 2)
    assert made.optimizer.learning_rate == 0.002
    assert made.name == "OPD, 0.002, seed 7"
    assert made.prompts.problem_seed == 0
    assert made.evaluation.prompts == 200


def test_stages_lay_their_own_fields_over_everything() -> None:
    small = definition()
    tuned = small.run_config("opd", {}, seed=0, runs={"rl": "run-a"}, stage="tune")
    assert tuned.prompts.problem_seed == 1
    quick = small.run_config("opd", {}, seed=0, runs={"rl": "run-a"}, quick=True)
    assert (quick.prompts.problem_seed, quick.evaluation.prompts) == (0, 9)


def test_a_field_can_be_the_seed() -> None:
    common = {**data()["common"], "prompts": {"count": 1, "problem_seed": "{seed}"}}
    made = definition(common=common).run_config("rl", {}, seed=7, runs={})
    assert made.prompts.problem_seed == made.seed == 7


def test_relative_paths_start_from_the_folder_of_the_experiment(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text("")
    made = definition(common={"prompts": "mine.jsonl", "student": "./s"}, folder=str(tmp_path))
    config = made.run_config("rl", {}, seed=7, runs={})
    assert config.prompts.source == str(tmp_path / "mine.jsonl")
    assert config.student.model == str(tmp_path / "s")
    assert made.fingerprint == made.model_copy(update={"folder": "/other"}).fingerprint


def test_merging_goes_field_by_field() -> None:
    assert merged({"a": {"b": 1, "c": [1, 2]}, "d": 3}, {"a": {"c": [9]}, "e": 4}) == {
        "a": {"b": 1, "c": [9]},
        "d": 3,
        "e": 4,
    }
    assert merged({"a": {"b": 1}}, {"a": 5}) == {"a": 5}


def test_references_are_found_at_any_depth() -> None:
    config = {"teacher": {"routes": {"x": {"model": "arm:one"}}}, "student": {"model": "arm:two"}}
    assert list(references({**config, "name": "arm: three"})) == ["one", "two"]


def test_choices_are_every_combination_in_order() -> None:
    sweep = {"steps": [1, 2], "optimizer.learning_rate": [0.1]}
    best = {"steps": 2, "optimizer.learning_rate": 0.1}
    made = definition(arms=arms(opd={"sweep": sweep, "best": best})).arms["opd"]
    assert made.choices() == [{"steps": s, "optimizer.learning_rate": 0.1} for s in (1, 2)]
    assert definition(arms=arms(rl={"sweep": {}, "best": {}})).arms["rl"].choices() == [{}]


def test_settings_change_every_arm_or_a_named_part() -> None:
    changed = with_settings(definition(), ["steps=9", "evaluation.prompts=50", "target.margin=0"])
    assert changed.common["steps"] == 9
    assert changed.arms["opd"].config["steps"] == 9  # which has steps of its own
    assert "steps" not in changed.arms["rl"].config
    assert changed.quick.config["evaluation"]["prompts"] == 50
    assert changed.target is not None and changed.target.margin == 0
    assert changed.settings == ["steps=9", "evaluation.prompts=50", "target.margin=0"]
    assert with_settings(definition(), ["arms.opd.config.steps=8"]).arms["opd"].config["steps"] == 8
    teacher = with_settings(definition(), ["teacher.kind=self"]).arms["opd"].config["teacher"]
    assert teacher["kind"] == "self"  # laid over the arm's `teacher: arm:rl`
    with pytest.raises(UserError, match=r"--set: .*seeds: Input should be"):
        with_settings(definition(), ["seeds=0"])
    with pytest.raises(UserError, match="did you mean steps"):
        with_settings(definition(), ["stepps=3"])
    with pytest.raises(UserError, match="arms rl, opd sweep this field"):
        with_settings(definition(), ["optimizer.learning_rate=1"])


def test_a_file_is_an_experiment_and_its_comments_are_its_title(tmp_path: Path) -> None:
    plain = {k: v for k, v in data().items() if k != "title"}
    path = tmp_path / "mine.yaml"
    path.write_text("# Mine\n# What it is.\n# And more.\n" + json.dumps(plain))
    definition = experiment(str(path))
    assert (definition.title, definition.description) == ("Mine", "What it is. And more.")
    assert list(definition.arms) == ["rl", "opd"]
    assert definition.source == str(path) and experiment("self-distillation").source == ""
    with pytest.raises(UserError, match="no experiment or file of this name; experiments: "):
        experiment("nothing")
