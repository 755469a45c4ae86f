"""What looks wrong with a run: signals with their evidence, computed from its stored records."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sqlalchemy import Engine

from storage.diagnosis import signals_models, signals_tokens
from storage.diagnosis.cards import CODES, MIN_TOKENS, Finding
from storage.diagnosis.look import Look, look
from storage.engine import read
from storage.lookups import run_row, version_of
from storage.read.cache import remembered

SIGNALS: tuple[Callable[[Look], Finding], ...] = (
    signals_models.sampler_mismatch,
    signals_tokens.template_mismatch,
    signals_tokens.stop_mismatch,
    signals_tokens.repetition,
    signals_models.overlap_flat,
    signals_models.off_support,
    signals_models.entropy_collapse,
    signals_tokens.length_drift,
    signals_models.unsure_late,
)


def diagnose(engine: Engine, run_id: str) -> dict[str, Any]:
    """The run's findings, causes before what follows from them, and what was looked at.

    {"items": [card], "total", "looked_at": {rollouts, tokens, steps, damaged, skipped, kind,
    enough}, "silent": [{code, title, judged, why, evidence}]}. A card is {code, title, text,
    severity, evidence: [{label, value, unit, threshold, fires}], rollouts: [{id, position, why}],
    filter, advice}. Raises UserError of kind "not found".
    """
    with read(engine) as connection:
        row = run_row(connection, run_id)
        key = ("diagnosis", run_id, version_of(connection, run_id))
        return remembered(engine, key, lambda: diagnosis(look(connection, row)))


def diagnosis(seen: Look) -> dict[str, Any]:
    """As `diagnose`, of what was read of a run."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        findings = sorted((s(seen) for s in SIGNALS), key=lambda f: list(CODES).index(f.code))
    cards = [f.card() for f in findings if f.fired]
    return {
        "items": cards,
        "total": len(cards),
        "looked_at": _looked_at(seen),
        "silent": [f.silence() for f in findings if not f.fired],
    }


def _looked_at(seen: Look) -> dict[str, Any]:
    rollouts = seen.tokens.rollouts
    return {
        "rollouts": len(rollouts),
        "tokens": len(seen.ids),
        "steps": len({r["step"] for r in rollouts}),
        "damaged": seen.tokens.damaged,
        "skipped": seen.skipped,
        "kind": rollouts[0]["kind"] if rollouts else "",
        "enough": bool(len(seen.ids) >= MIN_TOKENS),
    }
