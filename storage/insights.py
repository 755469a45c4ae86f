"""Aggregates over the tokens of a run, by name; the latest answers kept in memory."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, func, select

from opd.types import UserError
from storage import aggregates, topk_aggregates
from storage.engine import read
from storage.lookups import run_row
from storage.schema import rollout
from storage.selection import MAX_TOKENS, Where, selection, version_of

ENTROPY = 0.69  # nats: as unsure as between two equally likely tokens
HEAT = 0.5  # nats
MAX_ANSWERS = 64


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


def insights_overview(engine: Engine, run_id: str) -> dict[str, Any]:
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
        kinds = [dict(row) for row in connection.execute(query).mappings()]
    return {"kinds": kinds, "cap": MAX_TOKENS}


def insight(
    engine: Engine,
    run_id: str,
    name: str,
    where: Where | None = None,
    thresholds: Thresholds | None = None,
) -> dict[str, Any]:
    """One of INSIGHTS with the figures of where it comes from. Raises UserError."""
    where, thresholds = where or Where(), thresholds or Thresholds()
    if name not in INSIGHTS:
        raise UserError(f"no {name!r:.80}; known: {', '.join(INSIGHTS)}", where="insight")
    with read(engine) as connection:
        version = version_of(connection, run_id)
    key = (run_id, version, name, where, thresholds)
    answers = _answers.setdefault(engine, _Answers())
    found = answers.find(key)
    if found is None:
        start = time.perf_counter()
        if name in _FROM_TOPK:
            found = _FROM_TOPK[name](engine, run_id, where)
        else:
            chosen = selection(engine, run_id, where)
            options = asdict(thresholds) if name == "quadrants" else {}
            found = {**_FROM_SELECTION[name](chosen, **options), **chosen.facts()}
        found["seconds"] = time.perf_counter() - start
        answers.keep(key, found)
    return found


class _Answers:
    """The newest answers about one database."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[Any, dict[str, Any]] = OrderedDict()

    def find(self, key: Any) -> dict[str, Any] | None:
        with self._lock:
            return self._kept.get(key)

    def keep(self, key: Any, answer: dict[str, Any]) -> None:
        with self._lock:
            self._kept[key] = answer
            while len(self._kept) > MAX_ANSWERS:
                self._kept.popitem(last=False)


_answers: WeakKeyDictionary[Engine, _Answers] = WeakKeyDictionary()
