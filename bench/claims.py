"""Writes docs/claims.md from the result files: `python -m bench.claims`.

A result file is what `opd experiment NAME --json` ended with: docs/results/NAME.json.
"""

import json
from typing import Any

from app.cli.output import scaled
from bench import drivers
from bench.support.markdown import DOCS, interval, ratio, table
from opd.experiments.definition import Experiment, experiments
from storage.comparison.experiment_results import RATIOS as AXES

HEAD = """# Reproducing the published claims for on-policy distillation

Each claim is an experiment that anyone can run, from the Experiments page or with the command \
given. This page is generated from the result files in [results/](results) by \
`python -m bench.claims`; none of the figures in the tables is typed by hand. The published \
figures, from models thousands of times larger, are given for comparison.

How to read it: learning rates were tuned over grids of the same size, on problems other than \
those reported on, with one tuning seed (two for the single prompt). Intervals are 95% bootstrap \
intervals over seeds. With five seeds these intervals are probably too narrow; seeds share their \
held-out problems, whose choice is not part of the interval (except for the single prompt, where \
each seed has its own). A ratio is the mean over seeds of one arm divided by that of the other. \
Steps, tokens, FLOPs and seconds are those needed to reach the target, interpolated linearly \
between two evaluations; evaluations themselves are not counted. FLOPs follow the cost formula in \
`opd/models/cost.py`; seconds were measured on two shared CPU cores.
"""
LABELS = ["FLOPs" if axis == "flops" else axis for axis in AXES]
MISSED = ["not reached"] * len(AXES)


def main() -> None:
    (DOCS / "claims.md").write_text(text(), encoding="utf-8")


def text() -> str:
    """The whole page; experiments without a result file are left out."""
    parts = [HEAD]
    for experiment in experiments():
        path = DOCS / "results" / f"{experiment.name}.json"
        if path.is_file():
            parts.append(section(experiment, json.loads(path.read_text(encoding="utf-8"))))
    parts.append(drivers.section())
    return "\n".join(parts)


def section(experiment: Experiment, result: dict[str, Any]) -> str:
    minutes = (result["finished_at"] - result["created_at"]) / 60
    lines = [
        f"## {experiment.title}",
        "",
        f"**Claim.** {experiment.claim}",
        "",
        f"**Published.** {experiment.published}",
        "",
        f"**Here.** `{result['command']}`: {result['seeds']} seeds, {minutes:.0f} minutes.",
        "",
        *arms(result, experiment),
        "",
    ]
    if result["comparisons"]:
        lines += [*ratios(result, experiment), ""]
    if result["target"]:
        lines += [f"Target: {result['target']['text']}.", ""]
    if values := selected(result, experiment):
        lines += [f"Selected by tuning: {values}.", ""]
    for head, body in (("Shows", experiment.shows), ("Does not show", experiment.limits)):
        if body:
            lines += [f"**{head}.** {' '.join(body.split())}", ""]
    return "\n".join(lines)


def arms(result: dict[str, Any], experiment: Experiment) -> list[str]:
    """The table of results, in the words of today's definition."""
    labels = {name: arm.label for name, arm in experiment.arms.items()}
    has_target = result["target"] is not None
    heads = ["arm", "score", *(["reached", *LABELS] if has_target else [])]
    heads += [column.label for column in experiment.columns]
    rows = []
    for row in result["table"]:
        cells = [
            labels.get(row["arm"], row["label"]),
            interval(row["score"], row["low"], row["high"]),
        ]
        if has_target:
            reached = "–" if row["reached"] is None else f"{row['reached']} of {row['n']}"
            cells += [reached, *(scaled(row[f"{axis}_to_target"]) for axis in AXES)]
        cells += [interval(c["value"], c["low"], c["high"]) for c in row["cells"].values()]
        rows.append(cells)
    return table(heads, rows)


def ratios(result: dict[str, Any], experiment: Experiment) -> list[str]:
    rows = []
    for pair, defined in zip(result["comparisons"], experiment.pairs, strict=True):
        label = " ÷ ".join(experiment.arms[a].label for a in (pair["over"], pair["under"]))
        cells = [ratio(**pair["ratios"][axis]) for axis in AXES]
        rows.append([label, *(cells if pair["reached"] else MISSED), defined.note])
    return table(["ratio", *LABELS, ""], rows)


def selected(result: dict[str, Any], experiment: Experiment) -> str:
    """The values that tuning selected, and those that it tried."""
    parts = []
    for arm in result["arms"]:
        for field, value in (arm["chosen"] or {}).items():
            tried = ", ".join(f"{c['choice'][field]}" for c in arm["choices"])
            label = experiment.arms[arm["name"]].label
            parts.append(f"{label}: `{field}` {value}" + (f" of {tried}" if tried else ""))
    return "; ".join(parts)


if __name__ == "__main__":
    main()
