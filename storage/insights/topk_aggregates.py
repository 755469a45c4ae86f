"""Where the stored alternatives of student and teacher meet, and what both give to stopping.

Top-k records are large, so they are read a chunk of rollouts at a time and never kept.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Engine

from storage.engine import read
from storage.insights.selection import Where
from storage.lookups import run_fingerprint, run_row
from storage.packing import TOPK_COLUMNS
from storage.read.run_tokens import Share, fair_share, read_records
from storage.vocabulary import read_texts, text_of

MAX_TOPK_TOKENS = 500_000
MAX_STOP_IDS = 4
COMMON = 0.05  # of the endings; a rarer last token that is not special is no stop id
SIDES = ("student", "teacher")
PLACES = ("end", "before", "cut")
Array = NDArray[Any]
Record = tuple[dict[str, Any], dict[str, Array]]


def overlap(engine: Engine, run_id: str, where: Where) -> dict[str, Any]:
    """By step: mean |S∩T|/k of the two top-k sets, and the mass of each model on S∩T.

    "step", "tokens", "overlap", "student_mass", "teacher_mass", "k"; tokens that do not count
    (mask 0) and records without both top-k are left out.
    """
    columns = ("completion_ids", "mask", *TOPK_COLUMNS)
    sums: dict[int, Array] = {}
    widths: set[int] = set()
    reading = _RecordCursor(engine, run_id, where, columns)
    for row, record in reading:
        if not all(f"{side}_topk_ids" in record for side in SIDES):
            continue
        counts = record["mask"] != 0 if "mask" in record else np.ones(row["tokens"], bool)
        figures, k = _overlap_of(record, counts)
        if k:
            widths.add(k)
            sums[row["step"]] = sums.get(row["step"], np.zeros(4)) + figures
    steps = [step for step in sorted(sums) if sums[step][0]]
    table = np.array([sums[step] for step in steps]).reshape(-1, 4)
    return {
        "step": steps,
        "tokens": table[:, 0].astype(int).tolist(),
        **{
            name: (table[:, i] / table[:, 0]).tolist()
            for i, name in ((1, "overlap"), (2, "student_mass"), (3, "teacher_mass"))
        },
        "k": sorted(widths),
        **reading.facts(),
    }


def stops(engine: Engine, run_id: str, where: Where) -> dict[str, Any]:
    """By stop id and step: the mean probability that each model gives to it.

    "stops": [{token_id, text, special, endings, places: {end, before, cut}}]; "end" is the last
    token of rollouts that stopped, "before" the one before it, "cut" the last one of rollouts cut
    off by length. Each: step, rollouts, and for each side the mean, "…_most" (with what cannot be
    in the stored alternatives at its upper bound), and "…_bounded", the share so bounded.
    """
    columns = ("completion_ids", "student_logprobs", "teacher_logprobs", *TOPK_COLUMNS)
    reading = _RecordCursor(engine, run_id, where, columns)
    with read(engine) as connection:
        tokenizer = run_fingerprint(run_row(connection, run_id))
    ends: list[tuple[dict[str, Any], str, dict[str, Any]]] = []
    for row, record in reading:
        n = len(record["completion_ids"])
        stopped = row["finish_reason"] == "stop"
        positions = (("end", n - 1), ("before", n - 2)) if stopped else (("cut", n - 1),)
        ends += [
            (row, position, {name: array[at].copy() for name, array in record.items()})
            for position, at in positions
            if at >= 0
        ]
    last = [int(at["completion_ids"]) for _, position, at in ends if position == "end"]
    with read(engine) as connection:
        texts = read_texts(connection, tokenizer, set(last))
    stop_ids = []
    for token_id, endings in _stop_ids(last, {i for i, (_, special) in texts.items() if special}):
        stop_ids.append(
            {
                "token_id": token_id,
                "text": text_of(token_id, texts),
                "special": token_id in texts and texts[token_id][1],
                "endings": endings,
                "places": {position: _by_step(ends, position, token_id) for position in PLACES},
            }
        )
    return {"stops": stop_ids, **reading.facts()}


class _RecordCursor:
    """The records of a run one by one, with a count of what was read."""

    def __init__(self, engine: Engine, run_id: str, where: Where, columns: tuple[str, ...]) -> None:
        self._engine, self._run_id, self._where = engine, run_id, where
        self._columns = columns
        self._share = Share([], 0, 0)
        self._damaged = self._rollouts = self._read = 0

    def __iter__(self) -> Iterator[Record]:
        with read(self._engine) as connection:
            conditions = self._where.conditions(self._run_id)
            self._share = fair_share(connection, conditions, MAX_TOPK_TOKENS)
            for row, record in read_records(connection, self._columns, self._share.ids):
                if record is None:
                    self._damaged += 1
                    continue
                self._rollouts += 1
                self._read += row["tokens"]
                yield row, record

    def facts(self) -> dict[str, Any]:
        """As Selection.facts, as far as it is known here."""
        return {
            "rollouts": self._rollouts,
            "read": self._read,
            "stored": self._share.tokens,
            "capped": self._share.left_out > 0,
            "cap": MAX_TOPK_TOKENS,
            "damaged": self._damaged,
        }


def _overlap_of(record: Mapping[str, Array], counts: Array) -> tuple[Array, int]:
    """(tokens, Σ overlap, Σ student mass, Σ teacher mass) of one record, and its k."""
    student, teacher = (record[f"{side}_topk_ids"][counts] for side in SIDES)
    k = min(student.shape[1], teacher.shape[1])
    if not k:
        return np.zeros(4), 0
    row = np.arange(len(student), dtype=np.int64)[:, None] << 32  # ids take 32 bits
    student, teacher = student[:, :k] + row, teacher[:, :k] + row
    inside = {"student": np.isin(student, teacher), "teacher": np.isin(teacher, student)}
    masses = [
        float(
            np.where(
                inside[side], np.exp(record[f"{side}_topk_logprobs"][counts][:, :k], dtype=float), 0
            ).sum()
        )
        for side in SIDES
    ]
    shared = float(inside["student"].sum()) / k
    return np.array([len(student), shared, *masses]), k


def _stop_ids(last: list[int], special: set[int]) -> list[tuple[int, int]]:
    """Ids that rollouts ended with, and how often; the most frequent first."""
    ids, counts = np.unique(np.array(last, np.int64), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    frequencies = [(int(ids[i]), int(counts[i])) for i in order]
    return [
        (token_id, count)
        for token_id, count in frequencies
        if token_id in special or count > max(1, COMMON * len(last))
    ][:MAX_STOP_IDS]


def _by_step(
    ends: list[tuple[dict[str, Any], str, dict[str, Any]]], position: str, token_id: int
) -> dict[str, Any]:
    values_of: dict[int, list[list[float]]] = {}
    for row, at_position, at in ends:
        if at_position != position:
            continue
        sides = [bounds(at, side, token_id) for side in SIDES]
        if all(side is not None for side in sides):
            values = [value for side in sides if side for value in side]
            values_of.setdefault(row["step"], []).append(values)
    steps = sorted(values_of)
    means = np.array([np.mean(values_of[step], axis=0) for step in steps]).reshape(-1, 4)
    spread = np.array(
        [
            np.mean(np.array(values_of[s])[:, [0, 2]] < np.array(values_of[s])[:, [1, 3]], 0)
            for s in steps
        ]
    ).reshape(-1, 2)
    columns: dict[str, Any] = {"step": steps, "rollouts": [len(values_of[step]) for step in steps]}
    for i, side in enumerate(SIDES):
        columns[side] = means[:, 2 * i].tolist()
        columns[f"{side}_most"] = means[:, 2 * i + 1].tolist()
        columns[f"{side}_bounded"] = spread[:, i].tolist()
    return columns


def bounds(at: Mapping[str, Any], side: str, token_id: int) -> tuple[float, float] | None:
    """Least and greatest probability that a model can have given to an id at one token.

    `at`: the record's columns there. Equal where the id was sampled or is listed by either top-k;
    else from 0 to the least listed one, or the mass not listed. None where nothing is known.
    """
    other = "teacher" if side == "student" else "student"
    if int(at["completion_ids"]) == token_id and _is_number(at.get(f"{side}_logprobs")):
        value = float(np.exp(float(at[f"{side}_logprobs"])))
        return value, value
    for ids, values in (
        (f"{side}_topk_ids", f"{side}_topk_logprobs"),
        (f"{other}_topk_ids", f"{other}_topk_other"),
    ):
        if ids in at and values in at:
            listed = np.flatnonzero(at[ids] == token_id)
            if len(listed) and _is_number(at[values][listed[0]]):
                value = float(np.exp(float(at[values][listed[0]])))
                return value, value
    if f"{side}_topk_ids" not in at or not len(at[f"{side}_topk_ids"]):
        return None
    least = float(np.exp(float(at[f"{side}_topk_logprobs"][-1])))
    return 0.0, max(0.0, min(least, float(at[f"{side}_topk_tail"])))


def _is_number(value: Any) -> bool:
    return value is not None and not np.isnan(value)
