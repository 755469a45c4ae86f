"""What a signal says: its evidence against its thresholds, and the card that a page makes of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from storage.diagnosis.look import Bools, Floats, Look

Severity = Literal["error", "warning", "info"]
MAX_LINKS = 5
MIN_TOKENS = 500  # of the student, counted and judged
MIN_STEPS = 8  # of a trend

# What each looks for, in the order of causes: an earlier one often brings the later ones along.
CODES = {
    "sampler-mismatch": "Sampler and trainer differ",
    "template-mismatch": "Disagreement sits in template and special tokens",
    "stop-mismatch": "Both end answers with different tokens",
    "endorsed-repetition": "Repetition that the coach endorses",
    "overlap-flat": "Agreement stays low",
    "off-support": "Disagreement off the student's support",
    "entropy-collapse": "The student's entropy collapses",
    "length-drift": "Answers grow or are cut off",
    "unsure-late": "The coach is unsure late in long answers",
}


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
        known = self.value is not None and np.isfinite(self.value)
        return {
            "label": self.label,
            "value": float(self.value) if known and self.value is not None else None,
            "unit": self.unit,
            "threshold": self.threshold,
            "fires": self.fires,
        }


@dataclass(frozen=True)
class Finding:
    """One signal of one run. It has fired when all of its evidence speaks for the fault."""

    code: str
    evidence: Sequence[Evidence] = ()
    title: str = ""
    text: str = ""
    advice: str = ""
    severity: Severity = "warning"
    rollouts: Sequence[Mapping[str, Any]] = ()
    filter: Mapping[str, str] = field(default_factory=dict)
    unknown: str = ""  # why it cannot be judged

    @property
    def fired(self) -> bool:
        return not self.unknown and all(e.met for e in self.evidence)

    def card(self) -> dict[str, Any]:
        return {
            "code": self.code,
            "title": self.title,
            "text": self.text,
            "severity": self.severity,
            "evidence": [e.as_dict() for e in self.evidence],
            "rollouts": [dict(r) for r in self.rollouts],
            "filter": dict(self.filter),
            "advice": self.advice,
        }

    def silence(self) -> dict[str, Any]:
        """What was found of a signal that has not fired: of its evidence, what speaks against."""
        against = [e for e in self.evidence if not e.met] or list(self.evidence)
        return {
            "code": self.code,
            "title": CODES[self.code],
            "judged": not self.unknown,
            "why": self.unknown,
            "evidence": [e.as_dict() for e in against[:1]] if not self.unknown else [],
        }


def unjudged(code: str, why: str) -> Finding:
    return Finding(code, unknown=why)


def too_few(what: str, found: int, needed: int) -> str:
    """Empty where there are enough."""
    return "" if found >= needed else f"too little to judge: {found} {what} of at least {needed}"


def judged(look: Look) -> tuple[Bools, str]:
    """(N,): tokens that the student wrote, that count and that a coach read; or why too few."""
    if look.kl is None:
        return look.counts & False, "no coach read these tokens"
    return look.counts, too_few("tokens", int(look.counts.sum()), MIN_TOKENS)


def mean(values: Floats | NDArray[Any], where: Bools | None = None) -> float:
    """NaN of nothing."""
    chosen = values if where is None else values[where]
    return float(chosen.mean()) if len(chosen) else float("nan")


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def probability(value: float) -> str:
    return "less than 0.001" if value < 0.001 else f"{value:.2g}"


def clearest(
    look: Look, scores: Floats, where: Bools, why: str | Callable[[int], str]
) -> list[dict[str, Any]]:
    """Links to the tokens of the highest scores among `where` (N,), one a rollout.

    `why` names the score as {score:.2f}, or is asked for each of the N tokens that is linked.
    """
    places = np.flatnonzero(where)
    places = places[np.argsort(-scores[places], kind="stable")]
    _, first = np.unique(look.owner[places], return_index=True)
    return [
        look.link(
            int(look.owner[at]),
            int(at),
            why.format(score=float(scores[at])) if isinstance(why, str) else why(int(at)),
        )
        for at in places[np.sort(first)][:MAX_LINKS]
    ]
