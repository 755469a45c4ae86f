"""What a table of runs can have as columns: facts of a run, its metrics, and its settings.

A metric's column is called `NAME`, the last value, or `NAME:best`, `NAME:min`, `NAME:max` over the
run; a setting's by its path with dots. A list or mapping is one value, which is compared as its
text; an item of it has a path of its own (`evaluation.temperatures.0`).
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from opd.config.run import RunConfig
from opd.errors import UserError
from opd.metrics import METRICS, Metric, described
from storage.comparison.curves import leaves

Kind = Literal["run", "metric", "setting"]
WAYS = {"": 0, "min": 1, "max": 2}  # → index within a figure
MOST_COLUMNS = 40
SCORE, MAIN_METRIC = "score", "pass@1"
ITEM, PART = r"(\.[0-9]+)?", r"(\.[^.:]+)?"  # of a list, and of a mapping whose names are free


@dataclass(frozen=True)
class Column:
    """`share`: a fraction of 1. `goal`: which value is the best; empty where none is."""

    id: str
    kind: Kind
    label: str
    unit: str = ""
    help: str = ""
    share: bool = False
    goal: Literal["high", "low", ""] = ""


@dataclass(frozen=True)
class RunValues:
    """What columns read of one run: its item of the list, its figures, and its configuration."""

    item: Mapping[str, Any]
    figures: Mapping[str, Sequence[float | None]]
    config: Mapping[str, Any]


FACTS = {
    column.id: column
    for column in (
        Column("status", "run", "Status"),
        Column("name", "run", "Name"),
        Column("id", "run", "Run id"),
        Column("recipe", "run", "Recipe", help="The recipe that it was started from."),
        Column("student", "run", "Student"),
        Column("teacher", "run", "Teacher"),
        Column("objective", "run", "Objective"),
        Column("seed", "run", "Seed"),
        Column("tags", "run", "Tags", help="Compared as one text."),
        Column("notes", "run", "Notes"),
        Column("step", "run", "Step", "steps done"),
        Column("steps", "run", "Steps", "as configured"),
        Column("progress", "run", "Progress", help="Steps done of those configured.", share=True),
        Column("kl", "run", "KL", "nats per token", METRICS["reverse_kl"].help, goal="low"),
        Column("score", "run", "Score", METRICS[SCORE].unit, METRICS[SCORE].help, True, "high"),
        Column("score_start", "run", "Score before training", METRICS[SCORE].unit, share=True),
        Column("tokens", "run", "Tokens", help="Tokens that the student wrote in training."),
        Column("flops", "run", "Compute", "FLOP"),
        Column("seconds", "run", "Time", "seconds"),
        Column("bytes", "run", "Records", "bytes", "Stored token records, without checkpoints."),
        Column("created_at", "run", "Created", "time"),
        Column("started_at", "run", "Started", "time"),
        Column("finished_at", "run", "Finished", "time"),
        Column("attempt", "run", "Attempts"),
        Column("device", "run", "Device", "as configured"),
        Column("slot", "run", "Slot", help="The device that a running one has."),
        Column("loaded_device", "run", "Device used"),
        Column("host", "run", "Host", help="The machine that it runs on, or ran on last."),
        Column("cluster_job", "run", "Cluster job", help="Launcher and number of its job."),
        Column("started_by", "run", "Started by"),
        Column("parent", "run", "Cloned from"),
        Column("end_reason", "run", "Ended early by"),
        Column("error_kind", "run", "Error"),
    )
}


def resolve(ids: Iterable[str], stored: Callable[[], "Names"], where: str) -> list[Column]:
    """The columns of these ids, each once. Raises UserError for the first that is none, with what
    is close to it. `stored` tells what runs have, and is asked only for what no table has."""
    given = list(dict.fromkeys(ids))
    if len(given) > MOST_COLUMNS:
        raise UserError(f"at most {MOST_COLUMNS} columns (got {len(given)})", where=where)
    return [
        FACTS.get(name) or _metric(name, where) or _setting(name) or stored().column(name, where)
        for name in given
    ]


def value(column: Column, run: RunValues) -> Any:
    """The run's value; None where it has none."""
    if column.kind == "run":
        fact = run.item[column.id]
        return None if fact in ("", []) else fact
    if column.kind == "setting":
        return _at(run.config, column.id)
    name, _, way = column.id.partition(":")
    if name == SCORE:
        name = f"eval/{run.item['score_suite']}/{MAIN_METRIC}"
    if way == "best":
        way = "max" if column.goal == "high" else "min"
    figure = run.figures.get(name)
    return figure[WAYS[way]] if figure else None


@dataclass(frozen=True)
class Names:
    """Metrics and settings that runs have: name → how many runs have it."""

    metrics: Mapping[str, int]
    settings: Mapping[str, int]
    different: frozenset[str]  # settings that are not the same in all runs

    @classmethod
    def none(cls) -> "Names":
        return cls({}, {}, frozenset())

    @classmethod
    def of(cls, runs: Iterable[RunValues]) -> "Names":
        metrics: dict[str, int] = {}
        settings: dict[str, int] = {}
        first: dict[str, Any] = {}
        different = set()
        count = 0
        for run in runs:
            count += 1
            for name in run.figures:
                metrics[name] = metrics.get(name, 0) + 1
            for name, leaf in leaves(run.config):
                settings[name] = settings.get(name, 0) + 1
                if first.setdefault(name, leaf) != leaf:
                    different.add(name)
        different |= {name for name, n in settings.items() if n < count}
        return cls(metrics, settings, frozenset(different))

    def column(self, name: str, where: str) -> Column:
        """Of a name that no table of ours has. Raises UserError."""
        metric, _, way = name.partition(":")
        if metric in self.metrics:
            return _of_metric(metric, way, _entry(metric), where)
        if any(re.fullmatch(rf"{re.escape(path)}(\.[0-9]+)?", name) for path in self.settings):
            return Column(name, "setting", name)
        schema = (one.path for one in _settings().values() if "*" not in one.path)
        names = [*FACTS, *METRICS, *self.metrics, *self.settings, *schema]
        parts = [k for k in dict.fromkeys(names) if metric and k.rpartition(".")[2] == metric]
        close = [*parts, *difflib.get_close_matches(metric, names, n=3)]
        hint = (
            f"did you mean {', '.join(list(dict.fromkeys(close))[:4])}?"
            if close
            else "GET /api/v1/runs/columns lists all"
        )
        raise UserError(f"no column {name!r:.80}; {hint}", where=where)

    def columns(self) -> list[Column]:
        """All that runs have, facts first."""
        made = [
            _of_metric(name, way, entry, "columns")
            for name, entry in ((name, _entry(name)) for name in sorted(self.metrics))
            for way in ("", "best", "min", "max")
            if way != "best" or entry.goal
        ]
        best = _of_metric(SCORE, "best", METRICS[SCORE], "columns")
        names = sorted(self.settings.keys() - FACTS.keys())
        settings = [_setting(name) or Column(name, "setting", name) for name in names]
        return [*FACTS.values(), best, *made, *settings]


def _entry(name: str) -> Metric:
    """Of a metric that a run has; without words where the table knows none."""
    return described(name) or Metric(name, "", "")


def _metric(name: str, where: str) -> Column | None:
    """Of a metric that the table has, whether or not a run has it."""
    metric, _, way = name.partition(":")
    entry = METRICS.get(metric)
    if entry is None or metric == "pass@k" or metric == "teacher_pass@k":
        return None
    if metric.startswith("system/"):
        message = f"{metric} is recorded in the run's folder and cannot be a column"
        raise UserError(message, where=where)
    return _of_metric(metric, way, entry, where)


def _of_metric(name: str, way: str, entry: Metric, where: str) -> Column:
    if way == "best" and not entry.goal:
        message = f"{name} has no best value; {name}:min and {name}:max are there"
        raise UserError(message, where=where)
    if way not in (*WAYS, "best"):
        message = f"{name}:{way:.20} must end in :best, :min, :max or in none of them"
        raise UserError(message, where=where)
    label = entry.label
    if name.startswith("eval/"):
        label = f"{name.split('/')[1]} {entry.label}"
    words = {"": "", "best": ", best", "min": ", lowest", "max": ", highest"}
    full = f"{name}:{way}" if way else name
    label += words[way]
    return Column(full, "metric", label, entry.unit, entry.help, entry.share, entry.goal)


def _setting(path: str) -> Column | None:
    """Of a setting that a configuration may have, whether or not a run has it."""
    for pattern, setting in _settings().items():
        if re.fullmatch(pattern, path):
            return Column(path, "setting", path, help=setting.text)
    return None


@dataclass(frozen=True)
class _Setting:
    path: str  # `*` for a name of the user's
    text: str


@cache
def _settings() -> dict[str, _Setting]:
    """By the pattern of its path."""
    return {
        setting.path.replace(".", r"\.").replace("*", "[^.:]+") + more: setting
        for setting, more in _fields(RunConfig, "")
    }


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[_Setting, str]]:
    """Each with the pattern of what may follow its path."""
    for name, field in section.model_fields.items():
        path = prefix + name
        kinds = _kinds(field.annotation)
        mapping = next((kind for kind in kinds if get_origin(kind) is dict), None)
        within = f"{path}.*" if mapping else path
        more = ITEM if any(get_origin(kind) is list for kind in kinds) else ""
        yield _Setting(path, field.description or ""), more if not mapping else PART
        for kind in _kinds(get_args(mapping)[1]) if mapping else kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _fields(kind, f"{within}.")


def _kinds(annotation: Any) -> list[Any]:
    """The alternatives of a type, without what it is annotated with."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation]


def _at(node: Any, path: str) -> Any:
    """What lies at the path; None: nothing. A name that holds dots is found as well."""
    if not path:
        return node
    if isinstance(node, Mapping):
        for name, inner in node.items():
            if path == name or path.startswith(f"{name}."):
                item = _at(inner, path[len(name) + 1 :])
                if item is not None:
                    return item
        return None
    if isinstance(node, list):
        index, _, rest = path.partition(".")
        if index.isdecimal() and int(index) < len(node):
            return _at(node[int(index)], rest)
    return None
