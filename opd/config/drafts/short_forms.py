"""Plain data of a configuration, not validated: short forms made long, `a.b=value` put in place."""

import copy
from typing import Any

from opd.config.drafts.yaml_text import load_scalar
from opd.errors import UserError

SHORT_FORMS = {"student": "model", "teacher": "model", "prompts": "source", "objective": "name"}
SHORT_PARTS = {("teacher", "routes"): "model", ("evaluation", "suites"): "source"}  # of each part


def with_overrides(data: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Applies `a.b=value` assignments; a value is read as YAML, so 1e-4, null and [1, 0] work."""
    result: dict[str, Any] = copy.deepcopy(data)
    for assignment in assignments:
        path, separator, raw = assignment.partition("=")
        if not separator or not path.strip():
            raise UserError("must look like field=value", where=f"--set {assignment}")
        *parents, leaf = path.strip().split(".")
        node = result
        for depth, parent in enumerate(parents):
            child = _long(node.get(parent), _short_field(parents[: depth + 1]))
            node[parent] = child if isinstance(child, dict) else {}
            node = node[parent]
        node[leaf] = load_scalar(raw, where=f"--set {path}")
    return result


def with_long_forms(data: dict[str, Any]) -> dict[str, Any]:
    """`teacher: some/model` as `teacher: {model: some/model}`, and so for each short form."""
    whole = {k: _long(v, SHORT_FORMS.get(k)) for k, v in data.items()}
    for (section, name), field in SHORT_PARTS.items():
        inner = whole.get(section)
        if isinstance(inner, dict) and isinstance(inner.get(name), dict):
            parts = {k: _long(v, field) for k, v in inner[name].items()}
            whole[section] = inner | {name: parts}
    return whole


def _short_field(path: list[str]) -> str | None:
    """The field that a text in this place is short for; None: it is no short form."""
    if len(path) == 1:
        return SHORT_FORMS.get(path[0])
    return SHORT_PARTS.get((path[0], path[1])) if len(path) == 3 else None


def _long(value: Any, field: str | None) -> Any:
    return {field: value} if field and isinstance(value, str) else value
