"""Aggregates over the tokens of a run, by name."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Engine, func, select

from opd.errors import UserError
from storage.engine import read
from storage.insights import aggregates, topk_aggregates
from storage.insights.selection import MAX_TOKENS, Where, read_selection
from storage.lookups import run_row, version_of
from storage.read.cache import cached
from storage.schema import rollout

ENTROPY = 0.69  # nats: as unsure as between two equally likely tokens
HEAT = 0.5  # nats


@dataclass(frozen=True)
class Thresholds:
    """Where the quadrants of entropy and KL meet, in nats."""

    entropy: float = ENTROPY
    heat: float = HEAT


_FROM_SELECTION: dict[str, Callable[..., dict[str, Any]]] = {
    "positions": aggregates.by_position,
    "tokens": aggregates.by_token,
    "quadrants": aggregates.quadrants,
    "advantages": aggregates.advantages,
    "correctness": aggregates.correctness,
}
_FROM_TOPK: dict[str, Callable[..., dict[str, Any]]] = {
    "overlap": topk_aggregates.overlap,
    "stops": topk_aggregates.stops,
}
InsightName = Literal[
    "positions", "tokens", "quadrants", "advantages", "correctness", "overlap", "stops"
]
INSIGHTS: tuple[InsightName, ...] = get_args(InsightName)


def read_insights_overview(engine: Engine, run_id: str) -> dict[str, Any]:
    """What there is to look at: {"kinds": [{kind, rollouts, tokens, min_step, max_step}], "cap"}.

    Raises UserError of kind "not found"."""
    table = rollout.c
    query = (
        select(
            table.kind,
            func.count().label("rollouts"),
            func.sum(table.tokens).label("tokens"),
            func.min(table.step).label("min_step"),
            func.max(table.step).label("max_step"),
        )
        .where(table.run_id == run_id)
        .group_by(table.kind)
        .order_by(func.sum(table.tokens).desc(), table.kind)
    )
    with read(engine) as connection:
        run_row(connection, run_id)
        rows = connection.execute(query).mappings()
        kinds = [{**row, "tokens": int(row["tokens"])} for row in rows]
    return {"kinds": kinds, "cap": MAX_TOKENS}


def read_insight(
    engine: Engine,
    run_id: str,
    name: str,
    where: Where | None = None,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """One of INSIGHTS with the figures of where it comes from. Raises UserError."""
    where, thresholds = where or Where(), thresholds or Thresholds()
    if name not in INSIGHTS:
        raise UserError(
            f"unknown insight {name!r:.80}; known: {', '.join(INSIGHTS)}", where="insight"
        )
    with read(engine) as connection:
        version = version_of(connection, run_id)

    def answer() -> dict[str, Any]:
        start = time.perf_counter()
        if name in _FROM_TOPK:
            figures = _FROM_TOPK[name](engine, run_id, where)
        else:
            chosen = read_selection(engine, run_id, where)
            options = asdict(thresholds) if name == "quadrants" else {}
            figures = {**_FROM_SELECTION[name](chosen, **options), **chosen.facts()}
        return {**figures, "seconds": time.perf_counter() - start}

    return cached(engine, (name, run_id, version, where, thresholds), answer)
