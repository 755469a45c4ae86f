"""Runs side by side: their curves over what they cost, and what a threshold costs each of them."""

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

from sqlalchemy import Connection, Engine, RowMapping, func, select

from opd.errors import UserError
from opd.grading.outcome import is_right
from storage import schema
from storage.comparison import curves
from storage.comparison.curves import AXES, Axis, Band, Curve, Direction
from storage.engine import read
from storage.lookups import page_limit, page_offset, run_row
from storage.recipes import recipe_names

MAX_RUNS = 12
SCORE = "score"  # pass@1 of each run's main suite
EVALUATION = "eval/"  # eval/SUITE/METRIC
MAIN_METRIC = "pass@1"
TEACHER = "teacher_"  # before the names of what the teacher itself reached on the same prompts
LOW_IS_GOOD = ("kl", "loss", "entropy", "grad_norm", "clipped", "log_ratio")
WRITTEN = ("train", "eval", "import")  # kinds of what the student wrote at its step
CUT = 240  # characters of a prompt in the list
SEED_FIELDS = ("seed", "name")
_ROLLOUT = ("id", "run_id", "prompt_id", "step", "kind", "reward", "kl_mean", "tokens")
_FACTS = ("id", "name", "status", "recipe", "objective", "seed", "steps", "step", "tokens", "flops")


@dataclass(frozen=True)
class ComparisonQuery:
    """What is compared. `target` None: the worst of the runs' best values. `baseline` empty: the
    first run. `second` is a further metric that is only drawn; empty: none."""

    runs: Sequence[str]
    x: Axis = "step"
    metric: str = SCORE
    second: str = "reverse_kl"
    target: float | None = None
    direction: Direction | Literal["auto"] = "auto"
    baseline: str = ""
    interpolate: bool = False
    smoothing: float = 0.0  # weight of the moving average, 0 to below 1
    band: Band = "range"


def comparison(engine: Engine, query: ComparisonQuery) -> dict[str, Any]:
    """Everything that the page of runs side by side shows.

    runs, metrics (names that can be asked for), charts (one for `metric`, one for `second`),
    reach (the threshold's cost by run, with ratios), differences, groups of seeds. Raises
    UserError, of kind "not found" for a run that does not exist."""
    names = run_names(query.runs)
    baseline = query.baseline or names[0]
    if baseline not in names:
        raise UserError(f"must be one of the compared runs (got {baseline})", where="baseline")
    with read(engine) as connection:
        runs = {name: run_curves(connection, name) for name in names}
    groups = _groups(runs)
    metrics = _metrics(runs.values())
    chosen = [m for m in dict.fromkeys((query.metric, query.second)) if m]
    for metric, field in ((query.metric, "metric"), (query.second, "second")):
        if metric and metric not in (*metrics, SCORE, "reverse_kl"):
            raise UserError(
                f"no run has {metric!r:.80}; see `metrics` for what there is", where=field
            )
    lines = {name: run.curve(query.metric) for name, run in runs.items()}
    return {
        "runs": [run.facts() for run in runs.values()],
        "x": query.x,
        "smoothing": query.smoothing,
        "metrics": metrics,
        "charts": [_chart(runs, groups, metric, query) for metric in chosen],
        "reach": _reach(lines, groups, query, baseline),
        "differences": curves.differences({n: run.row["config"] for n, run in runs.items()}),
        "groups": [
            {"runs": group, "seeds": [runs[n].row["seed"] for n in group]} for group in groups
        ],
    }


def run_names(given: Sequence[str]) -> list[str]:
    """The runs asked for, each once. Raises UserError for none or too many."""
    names = list(dict.fromkeys(given))
    if not 1 <= len(names) <= MAX_RUNS:
        raise UserError(f"give 1 to {MAX_RUNS} runs (got {len(names)})", where="runs")
    return names


def direction_of(metric: str) -> Direction:
    """Whether a high or a low value of the metric is the goal."""
    name = metric.rpartition("/")[2]
    return "at_most" if any(part in name for part in LOW_IS_GOOD) else "at_least"


def shared_prompts(
    engine: Engine, runs: Sequence[str], *, limit: int = 20, offset: int = 0
) -> dict[str, Any]:
    """Prompts (text and token ids) that all the runs have, each with every run's newest rollout.

    Branches and first answers that were scored again are left out. {"items": [{"prompt",
    "answer", "rollouts": {run id: …}}], "total"}"""
    names = run_names(runs)
    prompt, rollout = schema.prompt, schema.rollout
    used = select(rollout.c.id).where(
        rollout.c.prompt_id == prompt.c.id,
        rollout.c.run_id == prompt.c.run_id,
        rollout.c.kind.in_(WRITTEN),
    )
    same = (
        select(prompt.c.text, prompt.c.ids)
        .where(prompt.c.run_id.in_(names), used.exists())
        .group_by(prompt.c.text, prompt.c.ids)
        .having(func.count(prompt.c.run_id.distinct()) == len(names))
    )
    with read(engine) as connection:
        for name in names:
            run_row(connection, name)
        total = connection.scalar(select(func.count()).select_from(same.subquery())) or 0
        page = (
            same.order_by(func.min(prompt.c.id))
            .limit(page_limit(limit))
            .offset(page_offset(offset))
        )
        keys = [(row.text, row.ids) for row in connection.execute(page)]
        texts = [text for text, _ in keys]
        rows = connection.execute(
            select(prompt).where(prompt.c.run_id.in_(names), prompt.c.text.in_(texts))
        ).mappings()
        owners = {row["id"]: row for row in rows if (row["text"], row["ids"]) in keys}
        newest = _newest(connection, list(owners))
    items: dict[Any, dict[str, Any]] = {
        key: {"prompt": key[0][:CUT], "answer": None, "rollouts": {}} for key in keys
    }
    for rollout_row in newest:
        owner = owners[rollout_row["prompt_id"]]
        item = items[owner["text"], owner["ids"]]
        item["answer"] = owner["answer"]
        item["rollouts"][owner["run_id"]] = rollout_row
    return {"items": list(items.values()), "total": total}


def _newest(connection: Connection, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """The newest rollout of each prompt; of one step, the sample that comes first by its id."""
    table = schema.rollout
    rank = func.row_number().over(
        partition_by=table.c.prompt_id, order_by=(table.c.step.desc(), table.c.id)
    )
    ranked = (
        select(*(table.c[name] for name in _ROLLOUT), rank.label("rank"))
        .where(table.c.prompt_id.in_(prompts), table.c.kind.in_(WRITTEN))
        .subquery()
    )
    rows = connection.execute(select(ranked).where(ranked.c.rank == 1)).mappings()
    return [
        {**{name: row[name] for name in _ROLLOUT}, "right": is_right(row["reward"])} for row in rows
    ]


@dataclass(frozen=True)
class RunCurves:
    """A run's row, its steps with cumulative costs, and its evaluations by name."""

    row: RowMapping
    costs: dict[str, list[float]]  # from the start (0) on, a value a step
    metrics: list[Mapping[str, Any]]
    evaluations: dict[str, list[tuple[int, float | None]]]  # step and value
    teacher: dict[str, dict[str, Any]]  # what the teacher itself reached, by the student's name

    def curve(self, metric: str) -> Curve:
        """Over the steps, or over the evaluations where it is a figure of theirs."""
        if metric == SCORE or metric.startswith(EVALUATION):
            points = self.evaluations.get(self._evaluated(metric), [])
            return Curve(self._costs_at([step for step, _ in points]), [v for _, v in points])
        costs = {axis: values[1:] for axis, values in self.costs.items()}
        return Curve(costs, [values.get(metric) for values in self.metrics])

    def teacher_score(self, metric: str) -> dict[str, Any] | None:
        """{"value", "standard_error", "n"} of the teacher itself; None where not measured."""
        return self.teacher.get(self._evaluated(metric))

    def not_finite(self, metric: str) -> int:
        """How many of its values were NaN or infinite when they were recorded."""
        if metric == SCORE or metric.startswith(EVALUATION):
            return sum(value is None for value in self.curve(metric).values)
        return sum(metric in values and values[metric] is None for values in self.metrics)

    def facts(self) -> dict[str, Any]:
        return {
            **{name: self.row[name] for name in _FACTS},
            **recipe_names(self.row),
            "score_suite": self.row["score_suite"],
            "bytes": self.row["bytes"],
            "training_seconds": self.costs["seconds"][-1],
        }

    def _evaluated(self, metric: str) -> str:
        return f"{EVALUATION}{self.row['score_suite']}/{MAIN_METRIC}" if metric == SCORE else metric

    def _costs_at(self, steps: Sequence[int]) -> dict[str, list[float]]:
        """What had been spent after each of those steps."""
        recorded_steps = self.costs["step"]
        indices = [bisect_right(recorded_steps, step) - 1 for step in steps]
        at = {axis: [values[i] for i in indices] for axis, values in self.costs.items()}
        return {**at, "step": [float(step) for step in steps]}


def run_curves(connection: Connection, run_id: str) -> RunCurves:
    row = run_row(connection, run_id)
    table, figures = schema.step, schema.evaluation
    steps = connection.execute(
        select(table).where(table.c.run_id == run_id).order_by(table.c.step)
    ).all()
    seconds = [math.fsum(v for v in s.seconds.values() if v is not None) for s in steps]
    evaluations: dict[str, list[tuple[int, float | None]]] = {}
    teacher: dict[str, dict[str, Any]] = {}
    for e in connection.execute(
        select(figures).where(figures.c.run_id == run_id).order_by(figures.c.step, figures.c.number)
    ):
        name = f"{EVALUATION}{e.suite}/{e.metric.removeprefix(TEACHER)}"
        if e.metric.startswith(TEACHER):
            teacher[name] = {"value": e.value, "standard_error": e.standard_error, "n": e.n}
        else:
            evaluations.setdefault(name, []).append((e.step, e.value))
    costs: dict[str, list[float]] = {
        "step": [0.0, *(float(s.step) for s in steps)],
        "tokens": list(accumulate((s.tokens for s in steps), initial=0.0)),
        "flops": list(accumulate((s.flops for s in steps), initial=0.0)),
        "seconds": list(accumulate(seconds, initial=0.0)),
    }
    return RunCurves(row, costs, [s.metrics for s in steps], evaluations, teacher)


def _metrics(runs: Iterable[RunCurves]) -> list[str]:
    """Evaluation figures first, then the steps' metrics by their names."""
    figures: dict[str, None] = {}
    plain: set[str] = set()
    for run in runs:
        figures.update(dict.fromkeys(run.evaluations))
        plain.update(name for values in run.metrics for name in values)
    return [*figures, *sorted(plain)]


def _groups(runs: Mapping[str, RunCurves]) -> list[list[str]]:
    """Runs whose configurations differ in nothing but seed and name, in the order asked for."""
    groups: dict[str, list[str]] = {}
    for name, run in runs.items():
        config = {k: v for k, v in run.row["config"].items() if k not in SEED_FIELDS}
        groups.setdefault(json.dumps(config, sort_keys=True), []).append(name)
    return list(groups.values())


def _chart(
    runs: Mapping[str, RunCurves],
    groups: Sequence[Sequence[str]],
    metric: str,
    query: ComparisonQuery,
) -> dict[str, Any]:
    lines = {name: run.curve(metric) for name, run in runs.items()}
    smooth = {
        name: Curve(line.costs, curves.smoothed(line.values, query.smoothing))
        for name, line in lines.items()
    }
    return {
        "metric": metric,
        "direction": direction_of(metric),
        "curves": [
            {
                **_drawn(name, lines[name], smooth[name], query.x),
                "not_finite": run.not_finite(metric),
                "teacher": run.teacher_score(metric),
            }
            for name, run in runs.items()
        ],
        "groups": [
            _drawn_group(group, [smooth[name] for name in group], query) for group in groups
        ],
    }


def _drawn(name: str, line: Curve, smooth: Curve, x: Axis) -> dict[str, Any]:
    indices = curves.thinned(len(line.values))
    return {
        "run": name,
        "x": [line.costs[x][i] for i in indices],
        "y": [line.values[i] for i in indices],
        "smooth": [smooth.values[i] for i in indices],
        "points": len(line.values),
    }


def _drawn_group(
    group: Sequence[str], lines: Sequence[Curve], query: ComparisonQuery
) -> dict[str, Any]:
    mean = curves.mean_curve(lines, query.band)
    indices = curves.thinned(len(mean["values"]))
    names = {"y": "values", "low": "low", "high": "high", "n": "n"}
    return {
        "runs": list(group),
        "band": query.band,
        "x": [mean["costs"][query.x][i] for i in indices],
        **{short: [mean[long][i] for i in indices] for short, long in names.items()},
    }


def _reach(
    lines: Mapping[str, Curve],
    groups: Sequence[Sequence[str]],
    query: ComparisonQuery,
    baseline: str,
) -> dict[str, Any]:
    """What the threshold costs each run and each group of seeds."""
    way = direction_of(query.metric) if query.direction == "auto" else query.direction
    target = query.target
    if target is None:
        target = curves.common_target(list(lines.values()), way)
    costs: dict[str, dict[str, float] | None] = {
        name: None if target is None else curves.reach(line, target, way, query.interpolate)
        for name, line in lines.items()
    }
    return {
        "metric": query.metric,
        "target": target,
        "chosen": "typed" if query.target is not None else "common",
        "direction": way,
        "interpolated": query.interpolate,
        "baseline": baseline,
        "items": [
            {
                "run": name,
                "reached": costs[name] is not None,
                "best": curves.best(line, way),
                "costs": costs[name],
                "ratio": curves.ratios(costs[name], costs[baseline]),
            }
            for name, line in lines.items()
        ],
        "groups": [_group_reach(group, costs) for group in groups],
    }


def _group_reach(
    group: Sequence[str], costs: Mapping[str, dict[str, float] | None]
) -> dict[str, Any]:
    """The mean over those that get there, and how many do."""
    there = [cost for name in group if (cost := costs[name]) is not None]
    mean = {a: math.fsum(c[a] for c in there) / len(there) for a in AXES} if there else None
    return {"runs": list(group), "n": len(group), "reached": len(there), "costs": mean}
