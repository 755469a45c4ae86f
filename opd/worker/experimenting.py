"""Takes an experiment one run further: by the supervisor, or by a command line that owns it."""

import logging
from pathlib import Path

from sqlalchemy import Engine

from opd.experiment_plan import Plan
from opd.worker import process
from opd.worker.job import discard_checkpoints
from storage import experiments
from storage.jobs import Owner

log = logging.getLogger(__name__)


def advance(engine: Engine, data_dir: Path, name: str, owner: Owner | None = None) -> str | None:
    """The run that the experiment waits for, made where there is none; None where it has ended."""
    row = experiments.experiment_row(engine, name)
    if row["status"] != "running":
        return None
    waiting = experiments.open_runs(engine, name)
    if waiting:
        return waiting[0]
    plan = experiments.plan_of(engine, row)
    if plan.problem is not None:
        status, text = plan.problem
        experiments.end_experiment(engine, name, status, text)
    elif plan.done:
        _forget_tuning(engine, data_dir, plan)
        experiments.end_experiment(engine, name, "finished")
    else:
        wanted = plan.wanted[0]
        return experiments.add_run(engine, name, wanted.key, wanted.config, owner)
    log.info("%s has ended", name)
    return None


def advance_all(engine: Engine, data_dir: Path) -> None:
    """Every running experiment that no living command line owns."""
    for name, owner in experiments.running_experiments(engine):
        if owner is None:
            advance(engine, data_dir, name)
        elif not process.alive(owner):
            text = "the command that ran it is gone"
            experiments.end_experiment(engine, name, "stopped", text)


def _forget_tuning(engine: Engine, data_dir: Path, plan: Plan) -> None:
    """Weights of runs that only served to choose a value; their figures and records stay."""
    for key, known in plan.known.items():
        if key.stage == "tune":
            discard_checkpoints(engine, data_dir, known.run_id)
