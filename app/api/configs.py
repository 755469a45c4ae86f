"""REST routes of configurations: recipes, the schema of the form, and validation of a draft."""

import shlex
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import yaml
from fastapi import APIRouter
from starlette.responses import Response

from app.api.http.inputs import ConfigSource, problems_of
from app.api.http.replies import MAX_PROBLEMS, Json, shown_problems
from opd.config.drafts.short_forms import with_overrides
from opd.config.drafts.unchecked import as_yaml, with_defaults
from opd.config.drafts.yaml_text import Document, YamlError, read_yaml
from opd.config.recipes import recipe, recipes
from opd.config.run import (
    VISIBLE_FIELDS,
    RunConfig,
    check_inputs,
    parse,
    to_yaml,
)
from opd.errors import UserError
from opd.loss.objective_table import described

router = APIRouter(prefix="/api/v1", tags=["configurations"])
BASE_RECIPE = "demo"
YAML_FILE = "run.yaml"


@router.get("/recipes")
def list_recipes() -> Response:
    items = _recipes()
    return Json({"items": items, "total": len(items)})


@router.get("/config/schema")
def config_schema() -> Response:
    """What forms need: JSON schema, fields shown first, defaults, recipes, objectives in words."""
    return Json(
        {
            "schema": RunConfig.model_json_schema(),
            "visible": VISIBLE_FIELDS,
            "defaults": parse({}).model_dump(mode="json"),
            "recipes": _recipes(),
            **described(),
        }
    )


@router.post("/config/check")
def check_config(body: ConfigSource) -> Response:
    """Validates a draft: its problems by field, or the configuration as JSON, YAML and command.

    `draft`, where there are problems, is the same draft as a form shows it: every field, mistakes
    included, and its YAML; null where the YAML cannot be read. A problem's `line` is that of the
    YAML given, else of the draft's.
    """
    try:
        document = body.document()
    except YamlError as error:
        listed = [{"field": p.field, "message": p.message} for p in error.problems]
        return _refused(listed, None, [p.line for p in error.problems])
    except UserError as error:
        return _refused(problems_of(error), None)
    data = document.data
    try:
        config = check_inputs(parse(data))
    except UserError as error:
        problems = problems_of(error)
        text = as_yaml(data)
        if body.yaml is None:
            document = _own_lines(text)
        draft = {"config": with_defaults(data), "yaml": text}
        return _refused(problems, draft, [document.line(p["field"]) for p in problems])
    return Json(
        {
            "ok": True,
            "problems": [],
            "config": config.model_dump(mode="json"),
            "yaml": to_yaml(config),
            "command": train_command(config, body.recipe or BASE_RECIPE),
            "draft": None,
        }
    )


def _refused(
    problems: list[dict[str, str]], draft: dict[str, Any] | None, lines: Sequence[int] = ()
) -> Response:
    """`lines`: of each problem, 0 for none."""
    shown = [
        {**problem, "line": line or None}
        for problem, line in zip_longest(shown_problems(problems), lines[:MAX_PROBLEMS])
    ]
    empty = dict.fromkeys(("config", "yaml", "command"))
    return Json({"ok": False, "problems": shown, **empty, "draft": draft})


def _own_lines(text: str) -> Document:
    """Of YAML that was written here; without lines where it is over the limits."""
    try:
        return read_yaml(text)
    except YamlError:
        return Document({})


def train_command(config: RunConfig, base: str) -> str:
    """The shell line that starts this run: a recipe and what differs from it.

    A value that the command line would read otherwise is left to the YAML file.
    """
    try:
        start = recipe(base).config
        values, base_values = (
            _leaves(config.model_dump(mode="json")),
            _leaves(parse(start).model_dump(mode="json")),
        )
        sets = [
            f"{k}={_flow(v)}"
            for k, v in values.items()
            if k not in base_values or base_values[k] != v
        ]
        if parse(with_overrides(start, sets)) == config:
            return shlex.join(["opd", "train", base, *(p for s in sets for p in ("--set", s))])
    except UserError:
        pass
    return shlex.join(["opd", "train", YAML_FILE])


def _recipes() -> list[dict[str, Any]]:
    return [
        {
            "name": r.name,
            "title": r.title,
            "description": r.description,
            "config": parse(r.config).model_dump(mode="json"),
        }
        for r in recipes()
    ]


def _leaves(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    leaves: dict[str, Any] = {}
    for key, value in data.items():
        path = f"{prefix}{key}"
        leaves |= _leaves(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return leaves


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**9, allow_unicode=True)
    return text.removesuffix("...\n").strip()
