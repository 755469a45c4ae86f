"""The documents name objectives, teachers and tests that exist, and all of them."""

import ast
import re
from pathlib import Path

import pytest

from bench.documents import GUIDE
from opd.config.models import RouteConfig
from opd.config.sections import ObjectiveConfig

ROOT = Path(__file__).parents[2]
METHOD = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
NAMED = re.findall(r"(tests/[\w/]+\.py)::(\w+)", METHOD)


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda v: v)
def test_every_named_test_is_there(file, name):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_every_trap_has_a_test():
    traps = {int(n) for n in re.findall(r"^\| (\d+) .*tests/", METHOD, re.MULTILINE)}
    assert traps == set(range(1, 13))


def test_every_objective_and_teacher_is_described():
    for model, field in ((ObjectiveConfig, "name"), (RouteConfig, "kind")):
        for value in model.model_fields[field].annotation.__args__:
            assert f"| `{value}`" in METHOD, value


def test_every_choice_of_the_form_has_its_help():
    for model, field in ((ObjectiveConfig, "name"), (ObjectiveConfig, "reduction")):
        info = model.model_fields[field]
        assert set(info.json_schema_extra["choices"]) == set(info.annotation.__args__)
    kinds = RouteConfig.model_fields["kind"]
    assert set(kinds.json_schema_extra["choices"]) == set(kinds.annotation.__args__)


def test_the_guide_to_the_token_view_has_every_metric_and_every_key():
    guide = (ROOT / "docs" / "guide" / "inspecting.md").read_text(encoding="utf-8")
    rollout = ROOT / "app" / "static" / "rollout"
    metrics = (rollout / "text" / "metrics.js").read_text(encoding="utf-8")
    labels = re.findall(r'^    label: "(.+)",$', metrics, re.MULTILINE)
    table = guide.partition("### Metrics")[2].partition("###")[0]
    assert len(labels) > 8 and [name for name in labels if name not in table] == []
    help_text = (rollout / "help.js").read_text(encoding="utf-8")
    keys = re.findall(r'^  \["(.+?)", "', help_text, re.MULTILINE)
    table = guide.partition("## Keys")[2].partition("\n## ")[0]
    named = {key for keys_of_row in keys for key in keys_of_row.split(" ")}
    assert len(named) > 12 and {key for key in named if f"`{key}`" not in table} == set()


@pytest.mark.parametrize("name", GUIDE)
def test_the_guide_has_the_documents_as_they_are(name):
    copy = ROOT / "app" / "static" / "guide" / name
    document = (ROOT / "docs" / "guide" / name).read_text(encoding="utf-8")
    assert copy.read_text(encoding="utf-8") == document, "run: python -m bench.documents"
