"""What a run depends on: kept when it starts, compared before it goes on."""

import logging
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from app.worker.references import resolved
from opd.config.run import RunConfig, parse
from opd.errors import ChangedInputsError, UserError
from opd.fingerprints.differences import changes
from opd.fingerprints.inputs import fingerprints
from storage.data_dir import DataDir
from storage.queue.inputs import read_inputs, write_inputs
from storage.queue.jobs import RESUMABLE
from storage.read.runs import read_run

log = logging.getLogger(__name__)


def changed_inputs(engine: Engine, data_dir: DataDir, run_id: str) -> list[dict[str, str]]:
    """What is not as it was when the run started, as {"field", "text"}; nothing of a run that
    cannot be resumed, or would begin again.

    Looked at without network and without loading models; the attempt itself looks once more.
    """
    info, stored = read_run(engine, run_id), read_inputs(engine, run_id)
    begins_again = not info["checkpoints"]
    if info["status"] not in RESUMABLE or begins_again or stored.fingerprints is None:
        return []
    try:
        config = resolved(engine, data_dir, parse(info["config"]), run_id)
    except UserError:  # what is missing is for the attempt to say
        return []
    return changes(stored.fingerprints, fingerprints(config, online=False))


def check_unchanged(engine: Engine, data_dir: DataDir, run_id: str) -> None:
    """Raises ChangedInputsError where an attempt would meet other inputs than the first did."""
    changed = changed_inputs(engine, data_dir, run_id)
    if changed:
        raise ChangedInputsError(run_id, changed)


def settle(engine: Engine, info: dict[str, Any], config: RunConfig, step: int | None) -> datetime:
    """Keeps what an attempt starts with, and returns the moment that chat templates render.

    `info` is that of the run, `step` the one it goes on from; None where it begins (again), and
    nothing of an earlier attempt is left to agree with. Raises ChangedInputsError, and LeaseLost.
    """
    run_id, attempt = info["id"], info["attempt"]
    before, now = read_inputs(engine, run_id), fingerprints(config, online=True)
    earlier, moment = before.fingerprints, moment_of(info)
    changed = changes(earlier or {}, now)
    inputs = replace(
        before,
        moment=moment.isoformat(),
        fingerprints={**(earlier or {}), **now},
        accept=False,
    )
    if step is not None and earlier is None:
        log.warning(
            "this run began before fingerprints of models and data were kept: changes since its "
            "start cannot be seen; later ones will be"
        )
    elif step is not None and changed:
        if not before.accept:
            raise ChangedInputsError(run_id, changed)
        listed = "; ".join(f"{c['field']}: {c['text']}" for c in changed)
        log.warning("going on with what has changed since the run started: %s", listed)
        entry = {"attempt": attempt, "step": step, "changes": changed}
        inputs = replace(inputs, accepted=[*before.accepted, entry])
    elif step is None:
        inputs = replace(inputs, accepted=[])
    write_inputs(engine, run_id, attempt, inputs)
    return moment


def moment_of(info: dict[str, Any]) -> datetime:
    """When a run's first attempt began, in the local time of the machine that it began on."""
    if info["rendered_as_of"] is not None:
        return datetime.fromisoformat(info["rendered_as_of"])
    started = info["started_at"]
    now = datetime.now().replace(microsecond=0)
    return now if started is None else datetime.fromtimestamp(int(started))
