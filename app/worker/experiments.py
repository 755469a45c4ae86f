"""Takes an experiment one run further: by the supervisor, or by a command line that owns it."""

import logging

from sqlalchemy import Engine

from app.worker.attempts.checkpoints import discard_checkpoints
from app.worker.owners.standing import Beat, Judge
from opd.errors import UserError
from opd.experiments.plan import Plan
from storage.data_dir import DataDir
from storage.queue import experiments
from storage.queue.jobs import Owner, owner_of

log = logging.getLogger(__name__)


def advance(engine: Engine, data_dir: DataDir, name: str, owner: Owner | None = None) -> str | None:
    """The run that the experiment waits for, made where there is none; None where it has ended, or
    belongs to somebody else by now."""
    row = experiments.experiment_row(engine, name)
    if row["status"] != "running" or owner_of(row) != owner:
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
    elif plan.next_run is None:  # a run of it has been taken up since
        return advance(engine, data_dir, name, owner)
    else:
        return experiments.add_run(engine, name, plan.next_run.key, plan.next_run.config, owner)
    log.info("%s has ended", name)
    return None


def advance_all(engine: Engine, data_dir: DataDir, judge: Judge) -> None:
    """Every running experiment that no command line owns; ends those whose owner has died."""
    end_orphaned(engine, judge)
    for name, owner in experiments.running_experiments(engine):
        if owner is not None:
            continue
        try:
            advance(engine, data_dir, name)
        except UserError as error:  # its definition is of another version
            log.error("%s: %s", name, error)
            experiments.end_experiment(engine, name, "failed", str(error)[:1000])


def end_orphaned(engine: Engine, judge: Judge) -> set[str]:
    """Marks the experiments whose command line is gone, so that they can be resumed; those of which
    that is still doubtful.

    One of another place tells that it lives by the heartbeats of its runs."""
    doubtful = set()
    for name, owner in experiments.running_experiments(engine):
        if owner is None:
            continue
        beat = Beat(*experiments.last_sign(engine, name))
        standing = judge.standing(name, owner, beat)
        if standing == "doubtful":
            doubtful.add(name)
        elif standing != "living":
            experiments.cancel_waiting(engine, name)
            text = "the command that ran it has exited"
            experiments.end_experiment(engine, name, "stopped", text)
    return doubtful


def _forget_tuning(engine: Engine, data_dir: DataDir, plan: Plan) -> None:
    """Weights of runs that only served to choose a value; their figures and records stay."""
    for key, run in plan.runs.items():
        if key.stage == "tune":
            discard_checkpoints(engine, data_dir, run.run_id)
