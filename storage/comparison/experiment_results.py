"""What an experiment found: scores, costs to the target and their ratios, with intervals."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from sqlalchemy import Engine, RowMapping, select

from opd.errors import UserError
from opd.experiments.definition import START, Arm, CostRatio, Experiment
from opd.experiments.plan import Key, Plan, tuning_keys
from storage import schema
from storage.comparison import curves
from storage.comparison.bootstrap import mean_interval, ratio_interval
from storage.comparison.compare import EVALUATION, RunCurves, run_curves
from storage.comparison.curves import AXES, Curve
from storage.engine import read
from storage.lookups import page_limit, page_offset
from storage.queue.experiments import (
    count_experiments,
    definition_of,
    experiment_row,
    plan_of,
)

RATIOS = ("steps", "tokens", "flops", "seconds")  # AXES, as they are called in results
TO_TARGET = {f"{name}_to_target": axis for name, axis in zip(RATIOS, AXES, strict=True)}
TEXTS = ("description", "question", "claim", "published", "shows", "limits")
FACTS = (
    *("id", "name", "title", "status", "quick", "seeds", "created_at", "finished_at"),
    "started_by",
)
ResultFields = dict[str, Any]


def experiments(engine: Engine, *, limit: int = 100, offset: int = 0) -> ResultFields:
    """Those that were started, newest first: FACTS, error_text, done and total runs."""
    table = schema.experiment
    page = (
        select(table)
        .order_by(table.c.created_at.desc(), table.c.id)
        .limit(page_limit(limit))
        .offset(page_offset(offset))
    )
    with read(engine) as connection:
        rows = connection.execute(page).mappings().all()
        total = count_experiments(connection)
    return {"items": [_item(engine, row) for row in rows], "total": total}


def _item(engine: Engine, row: RowMapping) -> ResultFields:
    """One that this version cannot read says so, and leaves the others alone."""
    item = {**{name: row[name] for name in (*FACTS, "error_text")}, "done": 0, "total": 0}
    try:
        plan = plan_of(engine, row)
    except UserError as error:
        return {**item, "error_text": error.message}
    return {**item, "done": plan.ended, "total": len(plan.keys)}


def experiment_progress(engine: Engine, name: str) -> dict[str, int]:
    """Ended runs, and all that the experiment is made of: {"done", "total"}."""
    plan = plan_of(engine, experiment_row(engine, name))
    return {"done": plan.ended, "total": len(plan.keys)}


def experiment(engine: Engine, name: str) -> ResultFields:
    """All results so far. Raises UserError "not found"."""
    row = experiment_row(engine, name)
    plan = plan_of(engine, row)
    with read(engine) as connection:
        runs = {
            key: run_curves(connection, run.run_id)
            for key, run in plan.runs.items()
            if not run.deleted
        }
    return _Results(definition_of(row), row, plan, runs).as_dict()


@dataclass(frozen=True)
class _Results:
    definition: Experiment
    row: RowMapping
    plan: Plan
    runs: Mapping[Key, RunCurves]

    def as_dict(self) -> ResultFields:
        definition = self.definition
        pairs = [self._pair(pair) for pair in definition.pairs]
        arms = [self._arm(name) for name in definition.arms]
        return {
            **{name: self.row[name] for name in (*FACTS, "error_text")},
            **{name: getattr(definition, name) for name in TEXTS},
            "done": self.plan.ended,
            "total": len(self.plan.keys),
            "phase": self._phase(),
            "fingerprint": self.definition.fingerprint,
            "command": self._command(),
            "metric": definition.metric,
            "target": self._target(),
            "arms": arms,
            "ratios": pairs[0]["ratios"] if pairs else _no_ratios(),
            "comparisons": pairs,
            "columns": [column.model_dump() for column in definition.columns],
            "table": self._table(arms),
        }

    def _finals(self, arm: str) -> dict[int, RunCurves]:
        """The finished runs that count, by seed."""
        return {
            key.seed: run
            for key, run in sorted(self.runs.items(), key=lambda item: item[0].seed)
            if key.arm == arm and key.stage == "final" and run.row["status"] == "finished"
        }

    def _curve(self, run: RunCurves, metric: str | None = None) -> Curve:
        return run.curve(EVALUATION + (metric or self.definition.metric))

    @cached_property
    def targets(self) -> dict[int, float]:
        """The target by seed, of the seeds where it is known."""
        target = self.definition.target
        if target is None:
            return {}
        if target.value is not None:
            return dict.fromkeys(range(self.row["seeds"]), target.value)
        assert target.arm is not None
        targets = {}
        for seed, run in self._finals(target.arm).items():
            line = self._curve(run)
            values = [v for i, v in line.measured() if line.costs["step"][i]][-target.last :]
            if values:
                targets[seed] = math.fsum(values) / len(values) - target.margin
        return targets

    def _target(self) -> ResultFields | None:
        target = self.definition.target
        if target is None:
            return None
        if target.arm is None:
            text = f"{self.definition.metric} of {target.value:g}"
        else:
            text = (
                f"the final score of “{self.definition.arms[target.arm].label}” with the same seed "
                f"(mean of its last {target.last} evaluations), minus {target.margin:g}"
            )
        values = [{"seed": s, "value": v} for s, v in sorted(self.targets.items())]
        return {"metric": self.definition.metric, "text": text, "values": values}

    def _costs(self, arm: str, *, bare: bool = False) -> dict[int, dict[str, float] | None]:
        """By seed, what the target took on every axis; None where it was not reached."""
        costs = {}
        for seed, run in self._finals(arm).items():
            if seed in self.targets:
                line = self._curve(without_teacher_sampling(run) if bare else run)
                costs[seed] = curves.reach(line, self.targets[seed], "at_least", interpolate=True)
        return costs

    def _arm(self, name: str) -> ResultFields:
        arm, finals, costs = self.definition.arms[name], self._finals(name), self._costs(name)
        lines = [self._curve(run) for run in finals.values()]
        mine = (r for k, r in self.runs.items() if (k.arm, k.stage) == (name, "final"))
        begun = lines or [self._curve(run) for run in mine]  # the first one shows while it runs
        ends = [v for line in lines if (v := _last(line)) is not None]
        score = mean_interval(ends)
        reached = [c for c in costs.values() if c is not None]
        whole = bool(reached) and len(reached) == len(costs) == len(finals)
        return {
            "name": name,
            "label": arm.label,
            "note": arm.note,
            "choices": self._choices(name, arm),
            "chosen": arm.choices()[self.plan.chosen[name]] if name in self.plan.chosen else None,
            "runs": [
                self._run(key, costs.get(key.seed))
                for key in self.plan.keys
                if key.arm == name and key.stage == "final" and key in self.runs
            ],
            "n": len(finals),
            "reached": len(reached) if self.definition.target else None,
            **{"score": score["value"], "low": score["low"], "high": score["high"]},
            **{
                to_target: math.fsum(c[axis] for c in reached) / len(reached) if whole else None
                for to_target, axis in TO_TARGET.items()
            },
            "cells": {c.metric: self._cell(finals, c.metric) for c in self.definition.columns},
            "curve": _mean_curve(begun),
        }

    def _choices(self, name: str, arm: Arm) -> list[ResultFields]:
        if name not in {key.arm for key in self.plan.keys if key.stage == "tune"}:
            return []
        choices = []
        for number, choice in enumerate(arm.choices()):
            keys = tuning_keys(self.definition, name, number)
            values = [
                k.criterion
                for key in keys
                if (k := self.plan.runs.get(key)) and k.status == "finished"
            ]
            criteria = [v for v in values if v is not None]
            choices.append(
                {
                    "choice": choice,
                    "criterion": math.fsum(criteria) / len(criteria) if criteria else None,
                    "chosen": self.plan.chosen.get(name) == number,
                    "runs": [self._run(key, None) for key in keys if key in self.runs],
                }
            )
        return choices

    def _run(self, key: Key, costs: dict[str, float] | None) -> ResultFields:
        run = self.runs[key]
        line = self._curve(run)
        return {
            **{name: run.row[name] for name in ("id", "status", "step", "steps")},
            "seed": key.seed,
            "start": _start(line),
            "score": _last(line),
            "costs": costs,
        }

    def _cell(self, finals: Mapping[int, RunCurves], metric: str) -> ResultFields:
        lines = [self._curve(run, metric) for run in finals.values()]
        ends = [v for line in lines if (v := _last(line)) is not None]
        starts = [v for line in lines if (v := _start(line)) is not None]
        return {**mean_interval(ends), "start": math.fsum(starts) / len(starts) if starts else None}

    def _pair(self, pair: CostRatio) -> ResultFields:
        """Costs of one arm ÷ the other's; no ratio where a seed of either missed the target."""
        bare = pair.without_teacher_sampling
        over, under = self._costs(pair.over, bare=bare), self._costs(pair.under, bare=bare)
        labels = [self.definition.arms[a].label for a in (pair.over, pair.under)]
        return {
            "label": " ÷ ".join(labels),
            "over": pair.over,
            "under": pair.under,
            "note": pair.note,
            **_ratios(over, under, bare),
        }

    def _table(self, arms: Sequence[ResultFields]) -> list[ResultFields]:
        names = ("label", "n", "reached", "score", "low", "high", *TO_TARGET, "cells")
        rows = [{"arm": arm["name"], **{n: arm[n] for n in names}} for arm in arms]
        if not self.definition.columns:
            return rows
        first = arms[0]
        cells = {
            m: mean_interval([c["start"]] if c["start"] is not None else [])
            for m, c in first["cells"].items()
        }
        nothing = dict.fromkeys(("reached", "low", "high", *TO_TARGET))
        start = {"arm": START, "label": "Start", "n": first["n"], **nothing}
        starts = [r["start"] for r in first["runs"] if r["start"] is not None]
        start["score"] = math.fsum(starts) / len(starts) if starts else None
        return [{**start, "cells": cells}, *rows]

    def _phase(self) -> str:
        """What is going on, for people who wait."""
        if self.row["status"] != "running":
            return ""
        for key, run in self.runs.items():
            if run.row["status"] in ("queued", "running"):
                what = "tuning" if key.stage == "tune" else "measuring"
                return f"{what}: {run.row['name']}, step {run.row['step']} of {run.row['steps']}"
        return "starting the next run" if self.plan.next_run else ""

    def _command(self) -> str:
        name = shlex.quote(self.definition.source or self.row["name"])
        parts = ["opd experiment", name, *(["--quick"] if self.row["quick"] else [])]
        usual = self.definition.quick.seeds if self.row["quick"] else self.definition.seeds
        if self.row["seeds"] != usual:
            parts.append(f"--seeds {self.row['seeds']}")
        parts += [f"--set {shlex.quote(setting)}" for setting in self.definition.settings]
        return " ".join(parts)


def without_teacher_sampling(run: RunCurves) -> RunCurves:
    """The run as if the completions that its teacher wrote had been there already."""
    saved = accumulate((m.get("teacher_sampling_flops") or 0.0 for m in run.metrics), initial=0.0)
    flops = [f - s for f, s in zip(run.costs["flops"], saved, strict=True)]
    return replace(run, costs={**run.costs, "flops": flops})


def _ratios(
    over: Mapping[int, dict[str, float] | None],
    under: Mapping[int, dict[str, float] | None],
    bare: bool,
) -> ResultFields:
    """{"reached": by every seed of both, "n": seeds compared, "ratios"}; without seconds where the
    teacher's sampling is left out, whose time is not known apart."""
    seeds = sorted(over.keys() & under.keys())
    pairs = [(over[s], under[s]) for s in seeds]
    both = [(o, u) for o, u in pairs if o is not None and u is not None]
    reached = bool(both) and len(both) == len(pairs)
    ratios = _no_ratios()
    for name, axis in zip(RATIOS, AXES, strict=True):
        if reached and not (bare and name == "seconds"):
            ratios[name] = ratio_interval([o[axis] for o, _ in both], [u[axis] for _, u in both])
    return {"reached": reached, "n": len(both), "ratios": ratios}


def _no_ratios() -> ResultFields:
    return {name: {"value": None, "low": None, "high": None} for name in RATIOS}


def _start(line: Curve) -> float | None:
    measured = line.measured()
    return measured[0][1] if measured and line.costs["step"][measured[0][0]] == 0 else None


def _last(line: Curve) -> float | None:
    measured = line.measured()
    return measured[-1][1] if measured else None


def _mean_curve(lines: Sequence[Curve]) -> ResultFields:
    mean = curves.mean_curve(lines, "range")
    return {
        **mean["costs"],
        **{"y": mean["values"], "low": mean["low"], "high": mean["high"], "n": mean["n"]},
    }
