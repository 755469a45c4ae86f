"""Rollouts as rows of the tables. No database here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd.types import Rollout, TokenRecord
from storage import packing
from storage.lookups import prompt_id
from storage.packing import finite
from storage.schema import BESIDE
from storage.text import clean
from storage.write.statistics import Statistics

MAX_FLAGGED_ID = 2**24  # above it, a table of flags would cost more memory than sorting
Values = NDArray[Any]


@dataclass
class Rows:
    """What a batch of rollouts adds to each table."""

    prompts: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher_prompts: dict[str, dict[str, Any]] = field(default_factory=dict)
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    hot_tokens: list[dict[str, Any]] = field(default_factory=list)
    bytes: int = 0
    # Of all but what is BESIDE the run
    scales: dict[str, float] = field(default_factory=dict)  # largest value of each metric
    kl: tuple[float, int] = (0.0, 0)  # sum of the reverse KL, and over how many tokens


class RowMaker:
    """Turns the rollouts of one run into rows; numbers those that would have the same id."""

    def __init__(self, run_id: str, hot_tokens: int) -> None:
        self._run_id = run_id
        self._hot_tokens = hot_tokens
        self._taken: dict[str, int] = {}

    def rows(self, rollouts: Iterable[Rollout], budget: float = math.inf) -> Rows:
        """The rows of as many rollouts, from the first on, as fit into `budget` bytes."""
        rows = Rows()
        kept: list[Rollout] = []
        for rollout in rollouts:
            packed = packing.pack(rollout.record)
            size = packing.size(packed)
            if rows.bytes + size > budget:
                break
            kept.append(rollout)
            rows.bytes += size
            name = self._id(rollout)
            prompt = _prompt(self._run_id, rollout)
            rows.prompts[prompt["id"]] = prompt
            read_by_teacher = self._teacher_prompt(rows, rollout)
            rows.records.append({"rollout_id": name, **packed})
            rows.rollouts.append(
                {
                    **_plain(rollout),
                    **{"id": name, "prompt_id": prompt["id"], "bytes": size},
                    "teacher_prompt_id": read_by_teacher,
                }
            )
        self._summarize(rows, kept)
        return rows

    def _teacher_prompt(self, rows: Rows, rollout: Rollout) -> str | None:
        """The id of the teacher's own prompt, which becomes a row once."""
        if rollout.teacher_prompt is None:
            return None
        text = clean(rollout.teacher_prompt)
        name = prompt_id(self._run_id, text, None, b"")
        rows.teacher_prompts[name] = {"id": name, "run_id": self._run_id, "text": text}
        return name

    def _summarize(self, rows: Rows, kept: Sequence[Rollout]) -> None:
        statistics = Statistics([rollout.record for rollout in kept])
        records = [rollout.record for rollout in kept if rollout.kind != BESIDE]
        run_statistics = statistics if len(records) == len(kept) else Statistics(records)
        rows.scales, rows.kl = run_statistics.maxima(), run_statistics.kl()
        sums = statistics.sums()
        for number, (row, rollout) in enumerate(zip(rows.rollouts, kept, strict=True)):
            row["run_id"] = self._run_id
            row.update({name: values[number] for name, values in sums.items()})
            same = {name: row[name] for name in ("run_id", "step", "kind")} | {
                "rollout_id": row["id"]
            }
            count = 0 if rollout.kind == BESIDE else self._hot_tokens
            for position, heat in statistics.hottest(number, count):
                hot = _hot_token(rollout.record, position)
                rows.hot_tokens.append({**same, "position": position, "heat": heat, **hot})

    def _id(self, rollout: Rollout) -> str:
        run = self._run_id.removeprefix("run-")
        position = f"{rollout.step}-{rollout.kind[0]}-{rollout.group}-{rollout.sample}"
        name = f"roll-{run}-{position}"
        times = self._taken.get(name, 0)  # the same prompt evaluated at several temperatures
        self._taken[name] = times + 1
        return f"{name}-{times}" if times else name


def raise_scales(scales: dict[str, float], maxima: Mapping[str, float]) -> None:
    """Raises each running maximum to the new one."""
    for name, value in maxima.items():
        scales[name] = max(value, scales.get(name, value))


def distinct_ids(rollouts: Sequence[Rollout]) -> NDArray[np.int64]:
    """Every token id in the rollouts: prompts, completions and alternatives."""
    arrays: list[Values] = []
    for rollout in rollouts:
        arrays += [np.asarray(rollout.prompt_ids), np.asarray(rollout.record.completion_ids)]
        for topk in (rollout.record.student_topk, rollout.record.teacher_topk):
            if topk is not None:
                arrays.append(topk.ids)
    arrays = [array for array in arrays if array.size]
    highest = max((int(array.max()) for array in arrays), default=-1)
    if highest > MAX_FLAGGED_ID:
        return np.unique(np.concatenate([array.ravel() for array in arrays])).astype(np.int64)
    flags = np.zeros(highest + 1, bool)
    for array in arrays:
        flags[array.ravel()] = True
    return np.flatnonzero(flags)


def finite_values(values: Mapping[str, float]) -> dict[str, float | None]:
    return {clean(name): finite(value) for name, value in values.items()}


def _prompt(run_id: str, rollout: Rollout) -> dict[str, Any]:
    text = clean(rollout.prompt)
    answer = None if rollout.answer is None else clean(rollout.answer)
    ids = packing.wide_unsigned(rollout.prompt_ids)
    return {
        "id": prompt_id(run_id, text, answer, ids),
        "run_id": run_id,
        "text": text,
        "ids": ids,
        "answer": answer,
        "data_row": rollout.data_row if rollout.data_row is None else dict(rollout.data_row),
    }


def _plain(rollout: Rollout) -> dict[str, Any]:
    return {
        "step": rollout.step,
        "kind": rollout.kind,
        "group": rollout.group,
        "sample": rollout.sample,
        "completion": clean(rollout.completion),
        "texts": None,
        "finish_reason": rollout.finish_reason,
        "author": rollout.author,
        "teacher_end": rollout.teacher_end and clean(rollout.teacher_end),
        "teacher": rollout.teacher and clean(rollout.teacher),
        "staleness": rollout.staleness,
        "temperature": rollout.temperature,
        "reward": finite(rollout.reward),
        "tokens": len(rollout.record),
    }


def _hot_token(record: TokenRecord, t: int) -> dict[str, Any]:
    top = record.teacher_topk
    if top is not None and not top.ids.shape[1]:
        top = None
    return {
        "token_id": int(record.completion_ids[t]),
        "reverse_kl": _at(record.reverse_kl, t),
        "student_logprob": _at(record.student_logprobs, t),
        "teacher_logprob": _at(record.teacher_logprobs, t),
        "wanted_id": None if top is None else int(top.ids[t, 0]),
        "wanted_logprob": None if top is None else finite(float(top.logprobs[t, 0])),
    }


def _at(values: Values | None, t: int) -> float | None:
    return None if values is None else finite(float(values[t]))
