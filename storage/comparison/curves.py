"""Curves of runs over what they cost: smoothing, the price of a threshold, means over seeds.

Pure functions. No database here.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

AXES = ("step", "tokens", "flops", "seconds")
Axis = Literal["step", "tokens", "flops", "seconds"]
Direction = Literal["at_least", "at_most"]
Band = Literal["range", "standard_error"]
Values = Sequence[float | None]
MAX_POINTS = 2_000  # of one drawn curve


@dataclass(frozen=True)
class Curve:
    """One metric of one run: `costs` holds, for each axis, the cumulative cost at each point."""

    costs: Mapping[str, Sequence[float]]  # AXES → ascending
    values: Values  # None where nothing was measured

    def measured(self) -> list[tuple[int, float]]:
        """Place and value of the points that have one."""
        return [(i, v) for i, v in enumerate(self.values) if v is not None and math.isfinite(v)]


def smoothed(values: Values, weight: float) -> list[float | None]:
    """Exponential moving average s_t = w·s_{t−1} + (1 − w)·y_t from s_0 = 0, divided by 1 − w^t.

    t counts the measured points; None stays None. `weight` 0 changes nothing; below 1."""
    mean, share = 0.0, 1.0
    averages: list[float | None] = []
    for value in values:
        if value is None or not math.isfinite(value):
            averages.append(None)
            continue
        mean = weight * mean + (1 - weight) * value
        share *= weight
        averages.append(mean / (1 - share))
    return averages


def best(curve: Curve, direction: Direction) -> float | None:
    """The highest value, or the lowest where low is good."""
    values = [value for _, value in curve.measured()]
    if not values:
        return None
    return max(values) if direction == "at_least" else min(values)


def common_target(curves: Sequence[Curve], direction: Direction) -> float | None:
    """The worst of the runs' best values: what each of them reaches."""
    best_values = [value for curve in curves if (value := best(curve, direction)) is not None]
    if not best_values:
        return None
    return min(best_values) if direction == "at_least" else max(best_values)


def reach(
    curve: Curve, target: float, direction: Direction, interpolate: bool = False
) -> dict[str, float] | None:
    """The cost on every axis at the first measured point that reaches the target; None: none does.

    With `interpolate`, the cost at which the straight line from the point before crosses it."""
    sign = 1 if direction == "at_least" else -1
    before: tuple[int, float] | None = None
    for index, value in curve.measured():
        if sign * value >= sign * target:
            here = {axis: float(curve.costs[axis][index]) for axis in AXES}
            if not interpolate or before is None:
                return here
            share = (target - before[1]) / (value - before[1])
            there = {axis: float(curve.costs[axis][before[0]]) for axis in AXES}
            return {axis: there[axis] + share * (here[axis] - there[axis]) for axis in AXES}
        before = index, value
    return None


def ratios(
    costs: Mapping[str, float] | None, baseline: Mapping[str, float] | None
) -> dict[str, float | None]:
    """Cost ÷ the baseline's, by axis; None where either never gets there or the baseline's is 0."""
    if costs is None or baseline is None:
        return dict.fromkeys(AXES)
    return {axis: costs[axis] / baseline[axis] if baseline[axis] else None for axis in AXES}


def mean_curve(curves: Sequence[Curve], band: Band) -> dict[str, Any]:
    """Point by point over the steps: mean cost and value of the runs measured there, `n` of them.

    `low`, `high`: the lowest and highest value, or the mean ∓ one standard error (standard
    deviation with n − 1, over √n), which is None for a single run."""
    at_step: dict[float, list[tuple[dict[str, float], float]]] = {}
    for curve in curves:
        for index, value in curve.measured():
            costs = {axis: float(curve.costs[axis][index]) for axis in AXES}
            at_step.setdefault(costs["step"], []).append((costs, value))
    points = [at_step[step] for step in sorted(at_step)]
    bounds = [_bounds([value for _, value in point], band) for point in points]
    return {
        "costs": {
            axis: [math.fsum(c[axis] for c, _ in point) / len(point) for point in points]
            for axis in AXES
        },
        "values": [math.fsum(value for _, value in point) / len(point) for point in points],
        "low": [low for low, _ in bounds],
        "high": [high for _, high in bounds],
        "n": [len(point) for point in points],
    }


def thinned(count: int) -> list[int]:
    """At most MAX_POINTS places among `count`, evenly, the first and the last among them."""
    if count <= MAX_POINTS:
        return list(range(count))
    return sorted({round(i * (count - 1) / (MAX_POINTS - 1)) for i in range(MAX_POINTS)})


def differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The fields in which configurations differ, and how many are equal in all of them.

    {"fields": [{"field": path with dots, "values": {name: value}}], "equal": n}; a field that a
    configuration lacks is None in it."""
    flat = {name: dict(leaves(config)) for name, config in configs.items()}
    fields = list(dict.fromkeys(field for one in flat.values() for field in one))
    differing, equal = [], 0
    for field in fields:
        values = {name: one.get(field) for name, one in flat.items()}
        if all(_same(value, next(iter(values.values()))) for value in values.values()):
            equal += 1
        else:
            differing.append({"field": field, "values": values})
    return {"fields": differing, "equal": equal}


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by its path; a list is one."""
    if not isinstance(node, Mapping) or (path and not node):
        yield path, node
        return
    for name, inner in node.items():
        yield from leaves(inner, f"{path}.{name}" if path else str(name))


def _same(one: Any, other: Any) -> bool:
    """Equal, where true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _bounds(values: Sequence[float], band: Band) -> tuple[float | None, float | None]:
    if band == "range":
        return min(values), max(values)
    n = len(values)
    if n < 2:
        return None, None
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    return mean - error, mean + error
