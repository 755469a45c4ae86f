"""Memory ran out during a run: what helps, and from where the run can go on."""

import logging
import traceback
from collections.abc import Callable

from app.worker.devices.holds import give_back
from opd.config.resuming import may_change
from opd.config.run import RunConfig
from opd.config.wording import size
from opd.doctor.machine.remedies import remedies
from opd.doctor.memory_parts import Phase
from opd.errors import LackOfMemoryError, UserError

log = logging.getLogger(__name__)
NAMED = 3  # remedies
# Phases in which student and optimizer are those of the last whole step.
INTACT = ("sample", "teacher", "student", "evaluation")


def rescued(error: LackOfMemoryError, save: Callable[[], object]) -> None:
    """Saves a checkpoint of the last whole step where the phase left it whole.

    What the failed phase computed is let go before.
    """
    if error.phase not in INTACT:
        return
    for one in (error, error.__cause__):
        traceback.clear_frames(one.__traceback__ if one else None)
    give_back()
    try:
        save()
    except (MemoryError, RuntimeError, OSError, UserError):
        log.exception("no checkpoint could be saved")


def explained(
    error: LackOfMemoryError, config: RunConfig, run_id: str, kept: int
) -> LackOfMemoryError:
    """The error with the settings that help, most first; `kept` is the step of the newest
    checkpoint, below 0 where there is none."""
    best = remedies(config, _phase(error.phase, config))[:NAMED]
    named = ", ".join(f"{r.field}: {r.value} (about {size(r.saves)} less)" for r in best)
    helps = f" What helps, most first: {named}." if named else ""
    start = f"the checkpoint of step {kept}" if kept >= 0 else "the start, for want of a checkpoint"
    settings = "".join(f" --set {r.field}={r.value}" for r in best if may_change(r.field))
    how = f"opd resume {run_id}{settings}"
    text = f"{error.message}.{helps} The run can go on from {start}: {how}"
    return LackOfMemoryError(text, phase=error.phase)


def _phase(phase: str, config: RunConfig) -> Phase | None:
    """The estimate's, for a phase of the run."""
    phases: dict[str, Phase] = {
        "loading": "always",
        "evaluation": "sampling",
        "sample": "writing" if config.author == "teacher" else "sampling",
        "teacher": "reading",
        "student": "update",
        "optimizer": "update",
    }
    return phases.get(phase)
