"""Automatic checks for nine failure modes of a run: arrays in, findings out."""

from collections.abc import Callable
from typing import Any

import numpy as np

from opd.diagnosis import (
    endorsed_repetition,
    entropy_collapse,
    length_drift,
    off_support,
    overlap_flat,
    sampler_mismatch,
    stop_mismatch,
    template_mismatch,
    unsure_late,
)
from opd.diagnosis.evidence import MIN_TOKENS, CheckResult
from opd.diagnosis.run_records import RunRecords

# Code: what it looks for, and the check. In the order of causes: an earlier fault often brings
# the later ones along.
CHECKS: dict[str, tuple[str, Callable[[RunRecords], CheckResult]]] = {
    "sampler-mismatch": ("Sampler and trainer disagree", sampler_mismatch.check),
    "template-mismatch": (
        "Disagreement concentrates in template and special tokens",
        template_mismatch.check,
    ),
    "stop-mismatch": ("Student and teacher end with different tokens", stop_mismatch.check),
    "endorsed-repetition": ("Repetition that the teacher endorses", endorsed_repetition.check),
    "overlap-flat": ("Agreement stays low", overlap_flat.check),
    "off-support": ("Disagreement outside the student's support", off_support.check),
    "entropy-collapse": ("The student's entropy collapses", entropy_collapse.check),
    "length-drift": ("Completions grow or are truncated", length_drift.check),
    "unsure-late": ("The teacher is unsure late in long completions", unsure_late.check),
}


def run_checks(records: RunRecords) -> dict[str, Any]:
    """The run's findings, causes before what follows from them, and what was looked at.

    {"items": [card], "total", "looked_at": {rollouts, tokens, steps, damaged, skipped, kind,
    enough}, "silent": [{code, title, judged, why, evidence}]}. A card is {code, title, text,
    severity, evidence: [{label, value, unit, threshold, fires}], rollouts: [{id, step, position,
    why}], filter, advice}.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        results = {code: check(records) for code, (_, check) in CHECKS.items()}
    cards = [{"code": code, **result.card()} for code, result in results.items() if result.fired]
    return {
        "items": cards,
        "total": len(cards),
        "looked_at": _looked_at(records),
        "silent": [
            {"code": code, "title": CHECKS[code][0], **result.silence()}
            for code, result in results.items()
            if not result.fired
        ],
    }


def _looked_at(records: RunRecords) -> dict[str, Any]:
    rollouts = records.tokens.rollouts
    return {
        "rollouts": len(rollouts),
        "tokens": len(records.ids),
        "steps": len({r["step"] for r in rollouts}),
        "damaged": records.tokens.damaged,
        "skipped": records.skipped,
        "kind": rollouts[0]["kind"] if rollouts else "",
        "enough": len(records.ids) >= MIN_TOKENS,
    }
