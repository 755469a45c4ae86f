"""The worst tokens of a run, each with its context: from the index, or from whole records.

The index holds the few worst tokens of each rollout (records.hot_tokens) and serves filters that
depend only on the rollout. Filters on the token itself are served from the token records, so that
no token is missed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select

from opd.errors import UserError
from opd.grading.outcome import is_right
from storage import packing
from storage.engine import read
from storage.insights.selection import Selection, Where, read_selection
from storage.insights.token_classes import CLASSES, codes_of
from storage.lookups import page_limit, page_offset, run_fingerprint, run_row
from storage.packing import finite
from storage.read.rollouts import outcome
from storage.schema import hot_token, rollout, token_record
from storage.token_context import TokenContext
from storage.vocabulary import Texts, read_texts, text_of

_RANGES = ("position", "entropy", "heat", "advantage")
_TEACHER_TOPK = ("teacher_topk_ids", "teacher_topk_logprobs")
Array = NDArray[Any]


@dataclass(frozen=True)
class TokenFilter:
    """Which tokens of a run; None or empty: all.

    Steps and positions are bounded inclusively; the values in nats from `min` up to, but not
    including, `max`.
    """

    kind: str | None = None
    step: int | None = None
    min_step: int | None = None
    max_step: int | None = None
    finish_reason: str | None = None
    correct: bool | None = None
    teacher: str | None = None
    # From here on about the token itself
    token_class: str | None = None
    token_id: int | None = None
    text: str = ""  # that the token's own text contains, upper and lower case alike
    min_position: int | None = None
    max_position: int | None = None
    min_entropy: float | None = None  # of the student
    max_entropy: float | None = None
    min_heat: float | None = None
    max_heat: float | None = None
    min_advantage: float | None = None
    max_advantage: float | None = None

    def __post_init__(self) -> None:
        if self.token_class is not None and self.token_class not in CLASSES:
            names = ", ".join(CLASSES)
            raise UserError(
                f"unknown class {self.token_class!r:.80}; known: {names}", where="class"
            )

    def of_tokens(self) -> bool:
        """Whether it selects by the token itself, not only by its rollout."""
        start = [field.name for field in fields(self)].index("token_class")
        return any(getattr(self, f.name) not in (None, "") for f in fields(self)[start:])

    def where(self) -> Where:
        """The kind and the steps; `step` narrows the range."""
        lows = [s for s in (self.step, self.min_step) if s is not None]
        highs = [s for s in (self.step, self.max_step) if s is not None]
        return Where(self.kind, max(lows, default=None), min(highs, default=None))


def read_hot_tokens(
    engine: Engine, run_id: str, *, limit: int = 50, offset: int = 0, **filters: Any
) -> dict[str, Any]:
    """The tokens of the highest reverse KL over the run (|log-ratio| where there is none).

    `filters` are the fields of TokenFilter. "source" is "index", where "kept" tokens of each
    rollout at most are known, or "records", whose figures are those of Selection.facts.
    """
    token_filter = TokenFilter(**filters)
    first, count = page_offset(offset), page_limit(limit)
    if token_filter.of_tokens():
        return _from_records(engine, run_id, token_filter, (first, count))
    return _from_index(engine, run_id, token_filter, (first, count))


def matching(chosen: Selection, filters: TokenFilter) -> NDArray[np.bool_]:
    """(N,): which tokens of the selection match and count; kind and steps are not checked
    again."""
    keep = chosen.counts.copy()
    if (filters.correct, filters.finish_reason, filters.teacher or None) != (None, None, None):
        fit = np.array([_fits(row, filters) for row in chosen.rollouts], bool)
        keep &= np.repeat(fit, chosen.lengths)
    if filters.token_id is not None:
        keep &= chosen.ids == filters.token_id
    if filters.token_class is not None or filters.text:
        keep &= chosen.by_id(_matching_ids(chosen, filters))
    values = {
        "entropy": lambda: chosen.columns["student_entropy"],
        "heat": lambda: chosen.heat,
        "advantage": lambda: chosen.advantage,
        "position": lambda: chosen.position,
    }
    for name in _RANGES:
        low, high = getattr(filters, f"min_{name}"), getattr(filters, f"max_{name}")
        if low is not None or high is not None:
            keep &= _between(values[name](), low, high, inclusive=name == "position")
    return keep


def _between(values: Array, low: Any, high: Any, *, inclusive: bool) -> NDArray[np.bool_]:
    wide = values.astype(np.float64)
    keep = np.isfinite(wide)
    if low is not None:
        keep &= wide >= low
    if high is not None:
        keep &= wide <= high if inclusive else wide < high
    return keep


def _fits(row: Mapping[str, Any], filters: TokenFilter) -> bool:
    if filters.finish_reason is not None and row["finish_reason"] != filters.finish_reason:
        return False
    if filters.teacher and row["teacher"] != filters.teacher:
        return False
    return filters.correct is None or is_right(row["reward"]) == filters.correct


def _matching_ids(chosen: Selection, filters: TokenFilter) -> NDArray[np.bool_]:
    """For each distinct id, whether its class and text match."""
    ids = chosen.distinct
    keep = np.ones(len(ids), bool)
    if filters.token_class is not None:
        keep &= codes_of(ids, chosen.texts) == CLASSES.index(filters.token_class)
    if filters.text:
        part = filters.text.casefold()
        keep &= np.array([part in text_of(int(i), chosen.texts).casefold() for i in ids], bool)
    return keep


def _from_index(
    engine: Engine, run_id: str, filters: TokenFilter, page: tuple[int, int]
) -> dict[str, Any]:
    of_rollout = outcome(filters.finish_reason, filters.correct, filters.teacher)
    where = [*filters.where().conditions(run_id, hot_token), *of_rollout]
    joined = hot_token.join(rollout, rollout.c.id == hot_token.c.rollout_id)
    order = (hot_token.c.heat.desc(), hot_token.c.rollout_id, hot_token.c.position)
    query = (
        select(hot_token, rollout.c.group, rollout.c.reward, rollout.c.texts)
        .add_columns(token_record.c.version, token_record.c.layout, token_record.c.completion_ids)
        .select_from(joined)
        .join(token_record, token_record.c.rollout_id == hot_token.c.rollout_id)
        .where(*where)
        .order_by(*order)
        .offset(page[0])
        .limit(page[1])
    )
    with read(engine) as connection:
        run = run_row(connection, run_id)
        counted = select(func.count()).select_from(joined if of_rollout else hot_token)
        total = connection.scalar(counted.where(*where)) or 0
        rows = [dict(row) for row in connection.execute(query).mappings()]
        items = _items(connection, run_fingerprint(run), rows)
    kept = (run["config"].get("records") or {}).get("hot_tokens")
    return {"items": items, "total": total, "source": "index", "kept": kept}


def _from_records(
    engine: Engine, run_id: str, filters: TokenFilter, page: tuple[int, int]
) -> dict[str, Any]:
    chosen = read_selection(engine, run_id, filters.where())
    matches = np.flatnonzero(matching(chosen, filters))
    first, count = page
    worst = _hottest(matches, chosen.heat, first + count)[first:]
    with read(engine) as connection:
        tokenizer = run_fingerprint(run_row(connection, run_id))
        items = _items(connection, tokenizer, _rows(connection, chosen, worst))
    return {"items": items, "total": len(matches), "source": "records", **chosen.facts()}


def _hottest(positions: Array, heat: Array, count: int) -> Array:
    """The `count` hottest of those tokens, hottest first; equal ones in their own order."""
    if not count or not len(positions):
        return positions[:0]
    values = heat[positions]
    if count < len(positions):
        least = np.partition(values, len(values) - count)[len(values) - count]
        positions, values = positions[values >= least], values[values >= least]
    return np.asarray(positions[np.argsort(-values, kind="stable")[:count]])


def _rows(connection: Connection, chosen: Selection, tokens: Array) -> list[dict[str, Any]]:
    """The tokens in the form in which the index has them, with their records."""
    ends = np.cumsum(chosen.lengths)
    owners = np.searchsorted(ends, tokens, side="right")
    positions = tokens - (ends - chosen.lengths)[owners]
    records = _packed(connection, {chosen.rollouts[int(o)]["id"] for o in owners})
    rows = []
    for token, owner, position in zip(tokens, owners, positions, strict=True):
        about = chosen.rollouts[int(owner)]
        record = records.get(about["id"], {"version": None, "texts": None})
        values = {name: finite(array[token]) for name, array in chosen.columns.items()}
        rows.append(
            {
                **{name: about[name] for name in ("step", "kind", "group", "reward")},
                **{name: record.get(name) for name in ("version", "layout", "completion_ids")},
                "texts": record.get("texts"),
                "rollout_id": about["id"],
                "position": int(position),
                "token_id": int(chosen.ids[token]),
                "heat": float(chosen.heat[token]),
                "reverse_kl": values["reverse_kl"],
                "student_logprob": values["student_logprobs"],
                "teacher_logprob": values["teacher_logprobs"],
                **_teacher_top(about["id"], record, int(position)),
            }
        )
    return rows


def _packed(connection: Connection, ids: set[str]) -> dict[str, dict[str, Any]]:
    names = ("version", "layout", "completion_ids", *_TEACHER_TOPK)
    rows = connection.execute(
        select(rollout.c.id, rollout.c.texts, *(token_record.c[name] for name in names))
        .join(token_record, token_record.c.rollout_id == rollout.c.id)
        .where(rollout.c.id.in_(ids))
    )
    return {row["id"]: dict(row) for row in rows.mappings()}


def _teacher_top(rollout_id: str, record: Mapping[str, Any], position: int) -> dict[str, Any]:
    """The teacher's most likely token there, where its alternatives were stored."""
    try:
        arrays = packing.unpack(rollout_id, record, _TEACHER_TOPK) if record["version"] else {}
    except packing.DamagedRecord:
        arrays = {}
    ids = arrays.get("teacher_topk_ids")
    if ids is None or not ids.shape[1]:
        return {"wanted_id": None, "wanted_logprob": None}
    logprob = finite(arrays["teacher_topk_logprobs"][position, 0])
    return {"wanted_id": int(ids[position, 0]), "wanted_logprob": logprob}


def _items(
    connection: Connection, tokenizer: str, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    contexts = [TokenContext(row, row["token_id"]) for row in rows]
    ids = {i for context in contexts for i in context.ids}
    ids |= {row["wanted_id"] for row in rows if row["wanted_id"] is not None}
    texts = read_texts(connection, tokenizer, ids)
    return [_item(row, c, texts) for row, c in zip(rows, contexts, strict=True)]


def _item(row: Mapping[str, Any], context: TokenContext, texts: Texts) -> dict[str, Any]:
    names = ("rollout_id", "position", "step", "kind", "group", "token_id", "heat")
    numbers = ("reverse_kl", "student_logprob", "teacher_logprob", "wanted_logprob")
    return {
        **{name: row[name] for name in (*names, *numbers, "wanted_id")},
        "right": is_right(row["reward"]),
        **context.read(texts),
        "log_ratio": _difference(row["student_logprob"], row["teacher_logprob"]),
        "wanted": None if row["wanted_id"] is None else text_of(row["wanted_id"], texts),
    }


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
