"""Each of a run's figures in short, kept with its row, so that a list of runs reads no step.

A figure is a metric by its name, the seconds of a phase as `seconds_PHASE`, and a score as
`eval/SUITE/METRIC`. Of each: [the last value, the lowest, the highest]; the last is None where it
was not finite.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, select

from storage import schema

Figures = Mapping[str, list[float | None]]
Values = Mapping[str, float | None]


def step_values(metrics: Values, seconds: Values) -> dict[str, float | None]:
    return {**metrics, **{f"seconds_{phase}": value for phase, value in seconds.items()}}


def score_values(rows: Iterable[Any]) -> dict[str, float | None]:
    """Of one evaluation's rows."""
    return {f"eval/{row['suite']}/{row['metric']}": row["value"] for row in rows}


def extended(figures: Figures, values: Values) -> dict[str, list[float | None]]:
    """The figures once these later values were reported."""
    return {**figures, **{name: _with(figures.get(name), value) for name, value in values.items()}}


def stored_figures(connection: Connection, run_id: str) -> dict[str, list[float | None]]:
    """Of all steps and evaluations that are stored: for a run whose records were dropped."""
    step, evaluation = schema.step.c, schema.evaluation.c
    figures: dict[str, list[float | None]] = {}
    for row in connection.execute(
        select(step.metrics, step.seconds).where(step.run_id == run_id).order_by(step.step)
    ):
        figures = extended(figures, step_values(row.metrics, row.seconds))
    scores = select(evaluation.suite, evaluation.metric, evaluation.value)
    for score in connection.execute(
        scores.where(evaluation.run_id == run_id).order_by(evaluation.step, evaluation.number)
    ).mappings():
        figures = extended(figures, score_values([score]))
    return figures


def _with(figure: list[float | None] | None, value: float | None) -> list[float | None]:
    _, lowest, highest = figure or (None, None, None)
    numbers = [v for v in (lowest, highest, value) if v is not None]
    return [value, min(numbers), max(numbers)] if numbers else [None, None, None]
