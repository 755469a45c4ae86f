"""The tokens of many rollouts of a run end to end, one array a column: what aggregates read."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, select

from opd.diagnosis.run_tokens import RunTokens
from storage import packing
from storage.schema import prompt, rollout, token_record

ABOUT = (
    *("id", "step", "kind", "group", "sample", "finish_reason", "reward", "tokens", "author"),
    "teacher",
)
CHUNK = 128  # rollouts a query
LEAST = 5  # tokens that a rollout counts as in a share
ORDER = (rollout.c.step, rollout.c.kind, rollout.c.group, rollout.c.sample, rollout.c.id)
Array = NDArray[Any]


def run_tokens(connection: Connection, columns: Collection[str], ids: Sequence[str]) -> RunTokens:
    """Those rollouts in the order of their steps; `columns` are names of packing.COLUMNS.

    A column that some of the rollouts lack is left out, as is a top-k of another k; where some
    lack a mask, all of their tokens count.
    """
    rows: list[dict[str, Any]] = []
    records: list[dict[str, Array]] = []
    damaged = 0
    for row, arrays in read_records(connection, columns, ids):
        if arrays is None:
            damaged += 1
            continue
        rows.append(row)
        records.append(arrays)
    if any("mask" in arrays for arrays in records):
        for row, arrays in zip(rows, records, strict=True):
            arrays.setdefault("mask", np.ones(row["tokens"], bool))
    lengths = np.array([row["tokens"] for row in rows], np.int64)
    return RunTokens(rows, {n: _joined(n, records) for n in _shared(records)}, lengths, damaged)


@dataclass(frozen=True)
class Share:
    """Which of the rollouts that were asked for are read."""

    ids: list[str]
    tokens: int  # of all that were asked for
    left_out: int  # rollouts that are not read


def fair_share(connection: Connection, where: Sequence[ColumnElement[bool]], limit: int) -> Share:
    """The rollouts that `where` (conditions on the rollout table) finds; where they have more than
    `limit` tokens, about so many tokens' worth, spread evenly over the steps.

    A rollout counts as LEAST tokens at least: what is known of it takes memory as well.
    """
    rollouts = connection.execute(
        select(rollout.c.id, rollout.c.step, rollout.c.tokens).where(*where).order_by(*ORDER)
    ).all()
    tokens = sum(row.tokens for row in rollouts)
    total = sum(max(LEAST, row.tokens) for row in rollouts)
    if total <= limit:
        return Share([row.id for row in rollouts], tokens, 0)
    random = np.random.default_rng(0)  # within a step by chance: groups come in an order
    kept: set[str] = set()
    passed = taken = 0
    for row in sorted(rollouts, key=lambda row: (row.step, random.random())):
        size = max(LEAST, row.tokens)
        passed += size
        if taken + size <= passed * limit / total:
            kept.add(row.id)
            taken += size
    ids = [row.id for row in rollouts if row.id in kept]
    return Share(ids, tokens, len(rollouts) - len(ids))


def read_records(
    connection: Connection, columns: Collection[str], ids: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, Array] | None]]:
    """Those rollouts in the order of their steps, each with its row (ABOUT, answer) and its
    arrays: the present ones of `columns`, or None where the record is damaged."""
    for row, packed in _records(connection, columns, ids):
        try:
            arrays = packing.unpack(row["id"], packed, columns)
        except packing.DamagedRecord:
            yield row, None
        else:
            yield row, arrays


def _records(
    connection: Connection, columns: Collection[str], ids: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    about = [rollout.c[name] for name in ABOUT]
    packed = [token_record.c[name] for name in ("version", "layout", *columns)]
    for start in range(0, len(ids), CHUNK):
        rows = connection.execute(
            select(*about, prompt.c.answer, *packed)
            .join(prompt, prompt.c.id == rollout.c.prompt_id)
            .join(token_record, token_record.c.rollout_id == rollout.c.id)
            .where(rollout.c.id.in_(ids[start : start + CHUNK]))
            .order_by(*ORDER)
        ).mappings()
        for row in rows:
            yield {name: row[name] for name in (*ABOUT, "answer")}, dict(row)


def _shared(records: Sequence[dict[str, Array]]) -> list[str]:
    """The columns that all records have, with one inner shape."""
    if not records:
        return []
    return [
        name
        for name, array in records[0].items()
        if all(name in f and f[name].shape[1:] == array.shape[1:] for f in records)
    ]


def _joined(name: str, records: Sequence[dict[str, Array]]) -> Array:
    """End to end, in the widest of the records' types."""
    return np.concatenate([f[name] for f in records])
