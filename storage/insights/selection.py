"""The tokens that aggregates and lists of a run look at, kept in memory between requests."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Engine, Table

from opd.diagnosis.run_tokens import positions
from storage.engine import read
from storage.lookups import run_fingerprint, run_row, version_of
from storage.read.run_tokens import fair_share, read_records
from storage.schema import BESIDE, rollout
from storage.vocabulary import Texts, read_texts

MAX_TOKENS = 2_000_000  # a run of more is looked at by an even share of its rollouts
MAX_KEPT = 2 * MAX_TOKENS  # tokens in memory, over all runs
MAX_TABLE_ID = 1 << 22  # ids above this are looked up by sorting
FLOATS = (
    *("reverse_kl", "student_logprobs", "teacher_logprobs"),
    *("student_entropy", "advantages"),
)
_COLUMNS = ("completion_ids", *FLOATS, "mask")
Array = NDArray[Any]


@dataclass(frozen=True)
class Where:
    """Which rollouts of a run; None: all, but those BESIDE the run."""

    kind: str | None = None
    min_step: int | None = None
    max_step: int | None = None

    def conditions(self, run_id: str, table: Table = rollout) -> list[ColumnElement[bool]]:
        """Of the table of rollouts, or another that has their run, kind and step."""
        kind = table.c.kind
        conditions: list[ColumnElement[bool]] = [table.c.run_id == run_id]
        conditions.append(kind != BESIDE if self.kind is None else kind == self.kind)
        if self.min_step is not None:
            conditions.append(table.c.step >= self.min_step)
        if self.max_step is not None:
            conditions.append(table.c.step <= self.max_step)
        return conditions

    @property
    def wider(self) -> "tuple[Where, ...]":
        """Itself, and what holds all of its rollouts."""
        return (self, Where(self.kind), *(() if self.kind == BESIDE else (Where(),)))


@dataclass(frozen=True)
class Selection:
    """N tokens of R rollouts, those that count in the loss and were scored marked.

    `heat` is what the worst tokens are sorted by: reverse KL, or |log-ratio| in a record that has
    no reverse KL. `advantage` is as trained, or −log-ratio in a record that has no advantages.
    """

    rollouts: list[dict[str, Any]]  # R rows
    lengths: Array  # (R,)
    ids: Array  # (N,) u4
    columns: dict[str, Array]  # FLOATS, each (N,) f4; NaN where a record has none
    heat: Array  # (N,) f4, nats
    advantage: Array  # (N,) f4
    counts: Array  # (N,) bool: mask not 0 and heat finite
    with_kl: Array  # (R,) bool
    with_advantage: Array  # (R,) bool
    damaged: list[dict[str, Any]]  # rows of the rollouts whose records cannot be read
    total: int  # tokens that the question found
    capped: bool  # more than MAX_TOKENS, and N are an even share of them
    texts: Texts  # of the ids that occur

    @property
    def owner(self) -> Array:
        """(N,): which of the R rollouts a token belongs to."""
        return np.repeat(np.arange(len(self.lengths), dtype=np.int32), self.lengths)

    @property
    def position(self) -> Array:
        """(N,): index in its completion."""
        return np.asarray(positions(self.lengths), np.int32)

    @property
    def steps(self) -> Array:
        """(R,)"""
        return np.array([row["step"] for row in self.rollouts], np.int64)

    @property
    def distinct(self) -> Array:
        """The ids that occur, ascending."""
        return np.asarray(distinct_ids(self.ids))

    def by_id(self, values: Array) -> Array:
        """(N,): for each token, the value at its id's place in `distinct`."""
        distinct = self.distinct
        if len(distinct) and int(distinct[-1]) <= MAX_TABLE_ID:
            table = np.zeros(int(distinct[-1]) + 1, values.dtype)
            table[distinct] = values
            return np.asarray(table[self.ids])
        return np.asarray(values[np.searchsorted(distinct, self.ids)])

    def within(self, where: Where) -> "Selection":
        """The part of some kind and steps."""
        keep = np.array([_inside(row, where) for row in self.rollouts], bool)
        if keep.all():
            return self
        tokens = np.repeat(keep, self.lengths)
        return replace(
            self,
            rollouts=[row for row, kept in zip(self.rollouts, keep, strict=True) if kept],
            lengths=self.lengths[keep],
            columns={name: array[tokens] for name, array in self.columns.items()},
            with_kl=self.with_kl[keep],
            with_advantage=self.with_advantage[keep],
            damaged=(damaged := [row for row in self.damaged if _inside(row, where)]),
            total=int(tokens.sum()) + sum(row["tokens"] for row in damaged),
            **{n: getattr(self, n)[tokens] for n in ("ids", "heat", "advantage", "counts")},
        )

    def facts(self) -> dict[str, Any]:
        """What an answer says of where its figures come from."""
        return {
            "rollouts": len(self.rollouts),
            "counted": int(self.counts.sum()),
            "read": len(self.ids),
            "stored": self.total,
            "capped": self.capped,
            "cap": MAX_TOKENS,
            "damaged": len(self.damaged),
            "quantity": _quantity(self.with_kl, "reverse_kl"),
        }

    def advantage_quantity(self) -> str:
        """ "advantages" as trained, "log_ratio" for −log-ratio instead, "mixed", or "none"."""
        return _quantity(self.with_advantage, "advantages")


def read_selection(engine: Engine, run_id: str, where: Where) -> Selection:
    """The tokens of a run's rollouts. Raises UserError of kind "not found"."""
    store = _stores.setdefault(engine, _Store())
    with store.lock:  # who asks for the same meanwhile waits and then finds it
        with read(engine) as connection:
            version = version_of(connection, run_id)
            selection = store.find((run_id, version), where)
            if selection is None:
                selection = _load(connection, run_id, where)
                store.keep((run_id, version), where, selection)
        return selection


def distinct_ids(ids: Array) -> Array:
    """The ids that occur, ascending, as int64."""
    if not len(ids) or int(ids.max()) > MAX_TABLE_ID:
        return np.unique(ids).astype(np.int64)
    return np.flatnonzero(np.bincount(ids))


class _Store:
    """The newest selections of one database, the oldest forgotten first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._kept: OrderedDict[tuple[Any, Where], Selection] = OrderedDict()

    def find(self, run: Any, where: Where) -> Selection | None:
        for wider in where.wider:
            selection = self._kept.get((run, wider))
            if selection is None or (wider != where and selection.capped):
                continue
            self._kept.move_to_end((run, wider))
            return selection if wider == where else selection.within(where)
        return None

    def keep(self, run: Any, where: Where, selection: Selection) -> None:
        for key in [key for key in self._kept if key[0][0] == run[0] and key[0] != run]:
            del self._kept[key]  # an older state of the same run
        self._kept[run, where] = selection
        while sum(len(kept.ids) for kept in self._kept.values()) > MAX_KEPT:
            self._kept.popitem(last=False)


_stores: WeakKeyDictionary[Engine, _Store] = WeakKeyDictionary()


def _load(connection: Connection, run_id: str, where: Where) -> Selection:
    share = fair_share(connection, where.conditions(run_id), MAX_TOKENS)
    rows: list[dict[str, Any]] = []
    records: list[dict[str, Array]] = []
    damaged: list[dict[str, Any]] = []
    for row, arrays in read_records(connection, _COLUMNS, share.ids):
        if arrays is None:
            damaged.append(row)
            continue
        rows.append(row)
        records.append(arrays)
    tokenizer = run_fingerprint(run_row(connection, run_id))
    selection = _joined(rows, records)
    texts = read_texts(connection, tokenizer, [int(i) for i in selection.distinct])
    return replace(
        selection,
        damaged=damaged,
        total=share.tokens,
        capped=share.left_out > 0,
        texts=texts,
    )


def _joined(rows: list[dict[str, Any]], records: list[dict[str, Array]]) -> Selection:
    lengths = np.array([len(record["completion_ids"]) for record in records], np.int64)
    ids = _end_to_end(record["completion_ids"].astype("<u4") for record in records)
    columns = {name: _filled(name, records, lengths) for name in FLOATS}
    weights = _end_to_end(
        record["mask"] != 0 if "mask" in record else np.ones(n, bool)
        for record, n in zip(records, lengths, strict=True)
    ).astype(bool)
    with_kl = np.array(["reverse_kl" in record for record in records], bool)
    with_advantage = np.array(["advantages" in record for record in records], bool)
    with np.errstate(invalid="ignore"):  # infinite − infinite, where nothing was measured
        ratio = columns["student_logprobs"] - columns["teacher_logprobs"]
    heat = np.where(np.repeat(with_kl, lengths), columns["reverse_kl"], np.abs(ratio))
    advantage = np.where(np.repeat(with_advantage, lengths), columns["advantages"], -ratio)
    return Selection(
        rollouts=rows,
        lengths=lengths,
        ids=ids.astype("<u4"),
        columns=columns,
        heat=heat,
        advantage=advantage,
        counts=weights & np.isfinite(heat),
        with_kl=with_kl,
        with_advantage=with_advantage,
        damaged=[],
        total=0,
        capped=False,
        texts={},
    )


def _filled(name: str, records: list[dict[str, Array]], lengths: Array) -> Array:
    return _end_to_end(
        record[name] if name in record else np.full(n, np.nan, np.float32)
        for record, n in zip(records, lengths, strict=True)
    ).astype(np.float32)


def _end_to_end(arrays: Iterable[Array]) -> Array:
    listed = list(arrays)
    return np.concatenate(listed) if listed else np.zeros(0, np.float32)


def _inside(row: Mapping[str, Any], where: Where) -> bool:
    return (
        (where.kind is None or row["kind"] == where.kind)
        and (where.min_step is None or row["step"] >= where.min_step)
        and (where.max_step is None or row["step"] <= where.max_step)
    )


def _quantity(present: Array, name: str) -> str:
    if not len(present):
        return "none"
    return name if present.all() else "mixed" if present.any() else "log_ratio"
