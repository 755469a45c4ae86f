"""Figures of many token records at once: sums to sort by, maxima for scales, the worst tokens.

Only tokens that count enter: those whose mask is not 0 and whose value is finite.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd.types import TokenRecord

Values = NDArray[Any]
_METRICS = {  # scale → (column, how it is measured)
    "reverse_kl": ("reverse_kl", np.positive),
    "student_surprise": ("student_logprobs", np.negative),
    "teacher_surprise": ("teacher_logprobs", np.negative),
    "student_entropy": ("student_entropy", np.positive),
    "teacher_entropy": ("teacher_entropy", np.positive),
    "teacher_rank": ("teacher_rank", np.positive),
    "advantages": ("advantages", np.abs),
    "log_ratio": ("log_ratio", np.abs),
}


class Statistics:
    """The records end to end in one array a quantity: one numpy call instead of one a record."""

    def __init__(self, records: Sequence[TokenRecord]) -> None:
        self._records = records
        self._lengths = np.array([len(record) for record in records], np.int64)
        self._ends = np.cumsum(self._lengths)
        self._starts = self._ends - self._lengths
        self._weights = self._weighed()
        self._columns: dict[str, tuple[Values, Values]] = {}
        self._heat: Values | None = None

    def sums(self) -> dict[str, list[float | None]]:
        """The summary columns of the rollout table, a value a record."""
        kl_sum, counted = self._sums("reverse_kl")
        return {
            "kl_sum": kl_sum,
            "kl_mean": [
                total / n if total is not None and n else None
                for total, n in zip(kl_sum, counted, strict=True)
            ],
            "kl_max": self._maxima("reverse_kl"),
            "log_ratio_sum": self._sums("log_ratio")[0],
            "student_logprob_sum": self._sums("student_logprobs")[0],
        }

    def kl(self) -> tuple[float, int]:
        """The sum of the reverse KL, and over how many tokens."""
        values, usable = self._column("reverse_kl")
        return float(values[usable].sum(dtype=np.float64)), int(usable.sum())

    def maxima(self) -> dict[str, float]:
        """The largest value of each metric; of signed ones, the largest magnitude."""
        maxima = {}
        for metric, (name, measure) in _METRICS.items():
            values, usable = self._column(name)
            if usable.any():
                maxima[metric] = float(measure(values[usable]).max())
        return maxima

    def hottest(self, number: int, count: int) -> list[tuple[int, float]]:
        """Position and heat of a record's `count` worst tokens: those of the highest reverse KL,
        or |log-ratio| where the record has no reverse KL."""
        if self._heat is None:
            self._heat = self._heats()
        heat = self._heat[self._starts[number] : self._ends[number]]
        worst = np.argsort(-heat, kind="stable")[:count]
        return [(int(t), float(heat[t])) for t in worst if heat[t] > 0]

    def _heats(self) -> Values:
        values, usable = self._column("reverse_kl")
        ratio, ratio_usable = self._column("log_ratio")
        without = np.repeat([r.reverse_kl is None for r in self._records], self._lengths)
        heat = np.where(without, np.abs(ratio), values)
        return np.where(np.where(without, ratio_usable, usable), heat, 0)

    def _sums(self, name: str) -> tuple[list[float | None], list[int]]:
        values, usable = self._column(name)
        totals = self._reduce(np.add, np.where(usable, values, 0).astype(np.float64))
        counted = self._reduce(np.add, usable.astype(np.int64))
        return self._where_present(name, totals), [int(n) for n in counted]

    def _maxima(self, name: str) -> list[float | None]:
        values, usable = self._column(name)
        highest = self._reduce(np.maximum, np.where(usable, values, -np.inf))
        return [
            value if value is not None and np.isfinite(value) else None
            for value in self._where_present(name, highest)
        ]

    def _reduce(self, ufunc: np.ufunc, values: Values) -> Values:
        """One figure a record; the identity for a record of no tokens."""
        filled = self._lengths > 0
        result = np.full(len(self._lengths), 0 if ufunc is np.add else -np.inf, values.dtype)
        if filled.any():
            result[filled] = ufunc.reduceat(values, self._starts[filled])
        return result

    def _where_present(self, name: str, values: Values) -> list[float | None]:
        return [
            float(value) if _has(record, name) else None
            for record, value in zip(self._records, values, strict=True)
        ]

    def _column(self, name: str) -> tuple[Values, Values]:
        """All records' values of a quantity, and which of them count."""
        if name not in self._columns:
            values = self._log_ratio() if name == "log_ratio" else self._joined(name)
            self._columns[name] = values, np.isfinite(values) & self._weights
        return self._columns[name]

    def _log_ratio(self) -> Values:
        student, teacher = self._column("student_logprobs")[0], self._column("teacher_logprobs")[0]
        with np.errstate(invalid="ignore"):  # infinite − infinite, where no token counts
            return np.asarray(student - teacher)

    def _joined(self, name: str) -> Values:
        columns = [getattr(record, name) for record in self._records]
        if all(column is None for column in columns):
            return np.full(int(self._lengths.sum()), np.nan, np.float32)
        return np.concatenate(
            [
                np.full(n, np.nan, np.float32) if column is None else column
                for column, n in zip(columns, self._lengths, strict=True)
            ]
        )

    def _weighed(self) -> Values:
        weights = [
            np.ones(len(record), bool) if record.mask is None else np.asarray(record.mask) != 0
            for record in self._records
        ]
        return np.concatenate(weights) if weights else np.zeros(0, bool)


def _has(record: TokenRecord, name: str) -> bool:
    needed = ("student_logprobs", "teacher_logprobs") if name == "log_ratio" else (name,)
    return all(getattr(record, column) is not None for column in needed)
