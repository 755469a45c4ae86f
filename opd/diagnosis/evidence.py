"""What a check says: its evidence against its thresholds, and the card that a page makes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from opd.diagnosis.run_records import Bools, Floats, RunRecords

Severity = Literal["error", "warning", "info"]
MAX_LINKS = 5
MIN_TOKENS = 500  # of the student, counted and scored
MIN_STEPS = 8  # of a trend
NO_TEACHER = "no teacher scored these tokens"


@dataclass(frozen=True)
class Evidence:
    """A figure; with a threshold, it speaks for the fault at or above it, or below it."""

    label: str
    value: float | None
    unit: str = ""  # share, nats, tokens, × or none
    threshold: float | None = None
    fires: Literal["", "above", "below"] = ""

    @property
    def met(self) -> bool:
        if self.threshold is None or not self.fires:
            return True
        if self.value is None or not np.isfinite(self.value):
            return False
        above = self.value >= self.threshold
        return above if self.fires == "above" else not above

    def as_dict(self) -> dict[str, Any]:
        finite = self.value is not None and np.isfinite(self.value)
        return {
            "label": self.label,
            "value": float(self.value) if finite and self.value is not None else None,
            "unit": self.unit,
            "threshold": self.threshold,
            "fires": self.fires,
        }


@dataclass(frozen=True)
class CheckResult:
    """One check of one run. It has fired when all of its evidence speaks for the fault."""

    evidence: Sequence[Evidence] = ()
    title: str = ""
    text: str = ""
    advice: str = ""
    severity: Severity = "warning"
    rollouts: Sequence[Mapping[str, Any]] = ()
    filter: Mapping[str, str] = field(default_factory=dict)
    unjudged: str = ""  # why it cannot be judged

    @property
    def fired(self) -> bool:
        return not self.unjudged and all(e.met for e in self.evidence)

    def card(self) -> dict[str, Any]:
        """Of a check that has fired."""
        return {
            "title": self.title,
            "text": self.text,
            "severity": self.severity,
            "evidence": [e.as_dict() for e in self.evidence],
            "rollouts": [dict(r) for r in self.rollouts],
            "filter": dict(self.filter),
            "advice": self.advice,
        }

    def silence(self) -> dict[str, Any]:
        """Of a check that has not fired: the first figure that speaks against the fault, or why
        it cannot be judged."""
        against = [e for e in self.evidence if not e.met] or list(self.evidence)
        return {
            "judged": not self.unjudged,
            "why": self.unjudged,
            "evidence": [e.as_dict() for e in against[:1]] if not self.unjudged else [],
        }


def unjudged(why: str) -> CheckResult:
    return CheckResult(unjudged=why)


def too_few(what: str, count: int, needed: int) -> str:
    """Empty where there are enough."""
    return "" if count >= needed else f"too little data: {count} {what}, at least {needed} needed"


def scored(records: RunRecords) -> tuple[Bools, str]:
    """(N,): tokens that the student wrote, that count and that a teacher scored; or why too few."""
    if records.kl is None:
        return records.counts & False, NO_TEACHER
    return records.counts, too_few("tokens", int(records.counts.sum()), MIN_TOKENS)


def no_gain(records: RunRecords) -> list[Evidence]:
    """That the score has not risen, where there is one."""
    gain = records.gain
    return [] if gain is None else [Evidence("score gained", gain[0], "share", gain[1], "below")]


def mean(values: Floats | NDArray[Any], where: Bools | None = None) -> float:
    """NaN of nothing."""
    chosen = values if where is None else values[where]
    return float(chosen.mean()) if len(chosen) else float("nan")


def ratio(a: float, b: float) -> float:
    return a / b if b > 0 else float("inf") if a > 0 else float("nan")


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def mask_of(tokens: NDArray[Any], records: RunRecords) -> Bools:
    """(N,): True at those indices."""
    mask = np.zeros(len(records.ids), bool)
    mask[tokens] = True
    return mask


def clearest(
    records: RunRecords, scores: Floats, where: Bools, why: str | Callable[[int], str]
) -> list[dict[str, Any]]:
    """Links to the tokens of the highest scores among `where` (N,), at most one per rollout.

    `why` names the score as {score:.2f}, or is called with each of the N tokens that is linked.
    """
    tokens = np.flatnonzero(where)
    tokens = tokens[np.argsort(-scores[tokens], kind="stable")]
    _, first = np.unique(records.owner[tokens], return_index=True)
    return [
        records.link(
            int(records.owner[at]),
            int(at),
            why.format(score=float(scores[at])) if isinstance(why, str) else why(int(at)),
        )
        for at in tokens[np.sort(first)][:MAX_LINKS]
    ]


def worst_late(records: RunRecords) -> list[dict[str, Any]]:
    """Links to the tokens of the highest KL in the last third of the steps."""
    if records.kl is None:
        return []
    where = records.counts & records.late[records.owner]
    return clearest(records, records.kl, where, "KL {score:.1f} nats")
