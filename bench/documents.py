"""Writes what documents take from the source: `python -m bench.documents`.

docs/settings.md comes from the configuration's schema; the tables of objectives in docs/method.md
and docs/guide/loss-lab.md come from `opd.loss.objective_table`; docs/guide/metrics.md and the
browser's table of metrics come from `opd.metrics`; the dashboard's guide has copies of docs/guide,
as docs/ is not installed. A test refuses pages that differ.
"""

import json
from collections.abc import Iterator
from typing import Any

from app.scripts import STATIC
from bench.support.markdown import DOCS
from opd.config.data import DataConfig
from opd.config.run import RunConfig, parse
from opd.loss.objective_table import OBJECTIVES, TRAINABLE
from opd.metrics import METRICS, Source

NEEDS = {
    "vocabulary": "its whole distribution",
    "top_k": "its k likeliest tokens",
    "sampled": "its log-probability of the sampled token",
    "nothing": "nothing",
}
DEFAULT = parse({}).objective.name
SETTINGS = """# Settings

Every field of a run's configuration, as the form, a YAML file and `--set FIELD=VALUE` take it. \
An unknown field is refused. Written from the schema by `python -m bench.documents`.

`student: NAME`, `teacher: NAME`, `prompts: SOURCE` and `objective: NAME` are short for \
`student.model`, `teacher.model`, `prompts.source` and `objective.name`.
"""
METRICS_PAGE = """# Metrics

What a run measures, as its page, Compare and reports call it, and the name under which `/api/v1` \
and exports have it. Per-token figures are means over all completion tokens of a step. A metric \
that a run does not have is not shown; one that is not listed here, such as of an import or a task \
of lm-eval, is called by its own name. Written from `opd/metrics.py` by `python -m bench.documents`.
"""
SOURCES: dict[Source, str] = {
    "step": "Of every step",
    "evaluation": "Of evaluations",
    "machine": "Of the machine",
}
# Of docs/guide; pages of the dashboard, too.
GUIDE = ("inspecting.md", "metrics.md", "diagnosis.md", "loss-lab.md")
METRIC_TABLE = STATIC / "lib" / "charts" / "metric_table.js"
SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
SECTIONS = {
    "teacher.routes": "`teacher.routes.NAME`: each takes every field of `teacher` but `route_by` "
    "and `routes`; `NAME: MODEL` is short for its `model`.",
    "evaluation.suites": "`evaluation.suites.NAME`: each takes the fields that `prompts` has of "
    "its data ({shared}), and these. `NAME: SOURCE` is short for its `source`.",
}


def main() -> None:
    (DOCS / "settings.md").write_text(settings(), encoding="utf-8")
    (DOCS / "guide" / "metrics.md").write_text(metrics(), encoding="utf-8")
    METRIC_TABLE.write_text(metric_table(), encoding="utf-8")
    for name in ("method.md", "guide/loss-lab.md"):
        path = DOCS / name
        path.write_text(with_tables(path.read_text(encoding="utf-8")), encoding="utf-8")
    for name in GUIDE:
        (STATIC / "guide" / name).write_bytes((DOCS / "guide" / name).read_bytes())


def with_tables(text: str) -> str:
    """The page with its generated tables, each between a pair of comments, written anew."""
    for name, table in (("objectives", objectives()), ("certainty", certainty())):
        start, end = f"<!-- {name}, written by bench.documents -->\n", f"<!-- end of {name} -->"
        before, mark, rest = text.partition(start)
        if mark:
            text = f"{before}{start}{table}\n{end}{rest.partition(end)[2]}"
    return text


def objectives() -> str:
    rows = [
        (f"`{name}`{' (default)' if name == DEFAULT else ''}", e.method, e.needs)
        for name, e in OBJECTIVES.items()
        if name in TRAINABLE
    ]
    return _table(
        ("`objective.name`", "loss of a token", "needs of the teacher"),
        [(name, method, NEEDS[needs]) for name, method, needs in rows],
    )


def certainty() -> str:
    return _table(
        ("objective", "from a record"),
        [(f"`{name}`", entry.certainty) for name, entry in OBJECTIVES.items()],
    )


def metrics() -> str:
    """The page of metrics, a table for each source."""
    heads = ("metric", "name", "unit", "what it is")
    parts = [METRICS_PAGE]
    for source, title in SOURCES.items():
        rows: list[tuple[str, ...]] = [
            (m.label, f"`{name}`", m.unit or "–", m.help)
            for name, m in METRICS.items()
            if m.source == source
        ]
        parts += [f"## {title}\n", _table(heads, rows), ""]
    return "\n".join(parts)


def metric_table() -> str:
    """The browser's script of the same, formatted as its formatter would."""
    lines = ["// Written by `python -m bench.documents` from opd/metrics.py.", ""]
    lines += ["/** @type {Record<string, MetricEntry>} */", "export const METRICS = {"]
    for name, m in METRICS.items():
        values = {"label": m.label, "unit": m.unit, "help": m.help, "share": m.share}
        lines += [f"  {name if name.isidentifier() else json.dumps(name)}: {{"]
        for field, value in values.items():
            text = json.dumps(value, ensure_ascii=False)
            lines += [f"    {field}: {text},"]
        lines += ["  },"]
    return "\n".join([*lines, "};", ""])


def settings() -> str:
    """The whole page, a section for each section of the configuration."""
    schema = RunConfig.model_json_schema()
    parts = [SETTINGS]
    plain = [name for name, node in schema["properties"].items() if not _section(node, schema)]
    parts += ["## General\n", _fields(schema, "", plain, schema)]
    for name, node in schema["properties"].items():
        if section := _section(node, schema):
            parts += [f"\n## {name}\n", _fields(section, f"{name}.", None, schema)]
            for field in section["properties"]:
                if text := SECTIONS.get(f"{name}.{field}"):
                    parts += [f"\n{text.format(shared=_shared())}", *_of_suites(field, schema)]
    return "\n".join(parts) + "\n"


def _shared() -> str:
    return ", ".join(f"`{name}`" for name in DataConfig.model_fields if name != "split")


def _of_suites(field: str, schema: dict[str, Any]) -> list[str]:
    if field != "suites":
        return []
    suite = schema["$defs"]["SuiteConfig"]
    suite_fields = [name for name in suite["properties"] if f"`{name}`" not in _shared()]
    return ["", _fields(suite, "", suite_fields, schema)]


def _fields(node: dict[str, Any], prefix: str, names: list[str] | None, root: Any) -> str:
    rows = [
        row
        for name, field in node["properties"].items()
        if names is None or name in names
        for row in _rows(f"{prefix}{name}", field, root)
    ]
    return _table(("field", "default", "limits", "what it does"), rows)


def _rows(path: str, field: dict[str, Any], root: Any) -> Iterator[tuple[str, ...]]:
    """A field's row; of a section, its own if it can be left out, and those of its fields."""
    section = _section(field, root)
    if section is None or "description" in field:
        yield f"`{path}`", _default(field), _limits(field), _help(field)
    for name, inner in section["properties"].items() if section else ():
        yield from _rows(f"{path}.{name}", inner, root)


def _section(field: dict[str, Any], root: Any) -> dict[str, Any] | None:
    for option in (field, *field.get("anyOf", ())):
        if "$ref" in option:
            section: dict[str, Any] = root["$defs"][option["$ref"].rpartition("/")[2]]
            return section
    return None


def _default(field: dict[str, Any]) -> str:
    value = field.get("default")
    if value is None or value in ("", [], {}):
        return "empty"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _limits(field: dict[str, Any]) -> str:
    options = [o for o in field.get("anyOf", [field]) if o.get("type") != "null"]
    return "; ".join(filter(None, map(_limit, options)))


def _limit(node: dict[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    if node.get("type") == "boolean":
        return "`true`, `false`"
    if node.get("type") == "array":
        least, most = node.get("minItems", 0), node.get("maxItems")
        count = f"{least} to {most} values" if most else "a list"
        return ", each ".join(filter(None, (count, _limit(node["items"]))))
    if node.get("type") == "object":
        return f"at most {node['maxProperties']} names" if "maxProperties" in node else "an object"
    if "maxLength" in node:
        least = node.get("minLength", 0)
        return f"{least} to {node['maxLength']:,} characters" if least else _most(node)
    return ", ".join(f"{sign} {node[key]:,.12g}" for key, sign in SIGNS.items() if key in node)


def _most(node: dict[str, Any]) -> str:
    return f"at most {node['maxLength']:,} characters"


def _help(field: dict[str, Any]) -> str:
    texts = field.get("choices", {})
    choices = [f"`{name}`: {texts[name]}" for name in field.get("enum", ()) if name in texts]
    return " ".join([field.get("description", ""), *choices])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
