"""A run is called by its recipe only while it is one of it, whenever it was made."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import Engine, update

from opd.config.drafts.short_forms import with_overrides
from opd.config.recipes import recipe
from opd.config.run import parse
from storage import schema
from storage.comparison.compare import ComparisonQuery, comparison
from storage.engine import begin
from storage.queue import jobs, run_details
from storage.read.runs import read_run, read_runs


def started(engine: Engine, *changes: str, name: str = "demo") -> str:
    config = parse(with_overrides(recipe(name).config, list(changes)))
    return jobs.create_run(engine, config, recipe=name)


def everywhere(engine: Engine, run_id: str) -> Mapping[str, Any]:
    """Name and label, which lists, pages and comparisons agree on."""
    [listed] = [r for r in read_runs(engine)["items"] if r["id"] == run_id]
    [compared] = comparison(engine, ComparisonQuery([run_id]))["runs"]
    run = read_run(engine, run_id)
    for field in ("name", "recipe_label", "bundled"):
        assert run[field] == listed[field] == compared[field]
    return run


@pytest.mark.parametrize(
    ("change", "bundled"),
    [
        ("student.model=bundled/small", False),
        ("teacher.model=bundled/student", False),
        ("teacher.kind=self", False),
        ("prompts.source=bundled/everyday", False),
        ("objective.name=forward_kl", True),
        (
            "teacher={model: bundled/teacher, route_by: k, routes: {math: bundled/small}}",
            False,
        ),
        ("teacher.prompt=The answer is {answer}. {prompt}", False),
        ("prompts.eval_source=bundled/handbook", False),
        ("evaluation.suites.easy.source=bundled", True),
    ],
)
def test_other_models_prompts_or_objective_are_said(
    engine: Engine, change: str, bundled: bool
) -> None:
    run = everywhere(engine, started(engine, change))
    assert (run["name"], run["recipe_label"]) == ("demo, changed", "demo, changed")
    assert run["recipe"] == "demo" and run["bundled"] is bundled


def test_steps_and_rates_leave_it_a_run_of_the_recipe(engine: Engine) -> None:
    run = everywhere(engine, started(engine, "steps=3", "optimizer.learning_rate=0.1"))
    assert (run["name"], run["recipe_label"], run["bundled"]) == ("demo", "demo", True)


def test_the_teachers_and_held_out_prompts_of_a_recipe_are_its_own(engine: Engine) -> None:
    for name in ("chat-self-teacher", "smollm-handbook", "gsm8k-qwen3"):
        run = everywhere(engine, started(engine, "steps=3", name=name))
        assert (run["name"], run["recipe_label"]) == (name, name)
    changes = {
        "chat-self-teacher": "teacher.system=Another hint {answer}",
        "smollm-handbook": "evaluation.suites={}",
        "gsm8k-qwen3": "prompts.eval_split=train",
    }
    for name, change in changes.items():
        run = everywhere(engine, started(engine, change, name=name))
        assert run["recipe_label"] == f"{name}, changed"


def test_a_configuration_of_an_older_version_is_compared_by_what_it_has(engine: Engine) -> None:
    run_id = started(engine)
    config = dict(read_run(engine, run_id)["config"])
    config["teacher"] = {k: v for k, v in config["teacher"].items() if k != "routes"}
    config["evaluation"] = {"every": 1}
    with begin(engine) as connection:
        connection.execute(update(schema.run).values(config=config))
    [listed] = read_runs(engine)["items"]
    assert (listed["recipe_label"], listed["bundled"]) == ("demo", True)


def test_a_name_of_ones_own_stays_and_the_recipe_is_said(engine: Engine) -> None:
    run = everywhere(engine, started(engine, "name=mine", "student.model=bundled/small"))
    assert (run["name"], run["recipe_label"]) == ("mine", "demo, changed")


def test_runs_of_before_are_called_so_too_until_somebody_names_them(engine: Engine) -> None:
    run_id = started(engine, "student.model=bundled/small")
    with begin(engine) as connection:
        connection.execute(update(schema.run).values(name="demo"))
    assert everywhere(engine, run_id)["name"] == "demo, changed"
    run_details.edit(engine, run_id, run_details.RunEdit(name="demo"))
    assert everywhere(engine, run_id)["name"] == "demo"


def test_without_a_recipe_or_with_one_that_is_not_here(engine: Engine) -> None:
    plain = jobs.create_run(engine, parse({}))
    other = jobs.create_run(engine, parse({}), recipe="theirs")
    run = everywhere(engine, plain)
    assert (run["name"], run["recipe_label"]) == ("run", "")
    assert everywhere(engine, other)["recipe_label"] == "theirs, not bundled"
