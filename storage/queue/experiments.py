"""Experiments and the runs that they are made of: who makes them, and how far they are.

An experiment that is running belongs to a command line, or to the supervisor where it has no owner.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, RowMapping, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from opd.config.run import RunConfig
from opd.errors import ErrorKind, UserError
from opd.experiments.definition import MAX_SEEDS, Arm, Experiment, first_problem
from opd.experiments.plan import ArmRun, Key, Plan, Planner
from opd.types import ExperimentStatus
from storage import clock, schema
from storage.engine import DatabaseTime, begin, read
from storage.lookups import new_id
from storage.queue import jobs
from storage.queue.jobs import Owner

OPEN = ("queued", "running")
table, links = schema.experiment, schema.experiment_run


def create_experiment(
    engine: Engine,
    definition: Experiment,
    *,
    quick: bool,
    seeds: int | None = None,
    request_key: str | None = None,
    owner: Owner | None = None,
    started_by: str = "",
) -> str:
    """Makes an experiment, which has no runs yet, and returns its id (`exp-…`).

    The same request_key always gives the same one. `started_by` is that of its runs, too. Relative
    paths of its runs start from the working directory of this call. Raises UserError."""
    usual = definition.quick.seeds if quick else definition.seeds
    count = usual if seeds is None else seeds
    if not 1 <= count <= MAX_SEEDS:
        raise UserError(f"must be 1 to {MAX_SEEDS} (got {count})", where="seeds")
    name = new_id("exp")
    row = {
        "id": name,
        "name": definition.name,
        "title": definition.title,
        "status": "running",
        "quick": quick,
        "seeds": count,
        "definition": definition.model_dump(mode="json")
        | {"folder": definition.folder or str(Path.cwd())},
        "request_key": request_key,
        "started_by": started_by,
        "error_text": "",
        **jobs.owner_values(owner),
    }
    try:
        with begin(engine) as connection:
            existing = _by_key(connection, request_key)
            if existing is None:
                row["created_at"] = clock.now(connection)
                connection.execute(insert(table).values(row))
            return existing or name
    except IntegrityError:  # only where writers do not wait for each other (PostgreSQL)
        with read(engine) as connection:
            if (existing := _by_key(connection, request_key)) is None:
                raise
            return existing


def running_experiments(engine: Engine) -> list[tuple[str, Owner | None]]:
    """Those that are running, oldest first, with the command line that owns them."""
    with read(engine) as connection:
        rows = connection.execute(
            select(table).where(table.c.status == "running").order_by(table.c.created_at)
        ).mappings()
        return [(row["id"], jobs.owner_of(row)) for row in rows]


def last_sign(engine: Engine, name: str) -> tuple[float, float]:
    """When it, or a run of it, was last heard of, and how long ago that is by the database's clock,
    in seconds."""
    run = schema.run
    times = (run.c.heartbeat_at, run.c.queued_at, run.c.finished_at)
    newest = [func.coalesce(func.max(t), table.c.created_at) for t in times]
    with read(engine) as connection:
        *signs, now = connection.execute(
            select(*newest, DatabaseTime())
            .select_from(table.outerjoin(links).outerjoin(run, links.c.run_id == run.c.id))
            .where(table.c.id == name)
            .group_by(table.c.id, table.c.created_at)
        ).one()
    return max(signs), now - max(signs)


def open_runs(engine: Engine, name: str) -> list[str]:
    """Its runs that wait or run."""
    return [run_id for run_id, status in _runs(engine, name) if status in OPEN]


def add_run(
    engine: Engine, name: str, key: Key, config: RunConfig, waiter: Owner | None = None
) -> str | None:
    """Queues a run of the experiment and returns its id; asked again, it is the same run.

    None where the experiment has been ended meanwhile; the run is then cancelled."""
    row = experiment_row(engine, name)
    run_id = jobs.create_run(
        engine,
        config,
        request_key=f"{name}/{key}",
        tags=[row["name"], name],
        waiter=waiter,
        started_by=row["started_by"],
    )
    values = {"experiment_id": name, "run_id": run_id, **key.__dict__}
    with begin(engine) as connection:
        # Locked first: who ends the experiment waits, and then sees the link.
        status = connection.scalar(
            select(table.c.status).where(table.c.id == name).with_for_update(key_share=True)
        )
        if connection.scalar(select(links.c.run_id).where(links.c.run_id == run_id)) is None:
            connection.execute(insert(links).values(values))
        run_status = connection.scalar(select(schema.run.c.status).where(schema.run.c.id == run_id))
    if status != "running":
        _cancel(engine, run_id)
        return None
    if run_status in jobs.RESUMABLE:  # cancelled when the process that made it died at once
        jobs.requeue(engine, run_id, waiter=waiter, by=row["started_by"])
    return run_id


def end_experiment(engine: Engine, name: str, status: ExperimentStatus, text: str = "") -> bool:
    """Ends one that is running. False: it was not."""
    with begin(engine) as connection:
        ended = connection.execute(
            update(table)
            .where(table.c.id == name, table.c.status == "running")
            .values(
                status=status,
                error_text=text,
                finished_at=clock.now(connection),
                **jobs.owner_values(None),
            )
        )
        return ended.rowcount == 1


def cancel_waiting(engine: Engine, name: str) -> None:
    """Cancels its runs that have not begun."""
    for run_id, status in _runs(engine, name):
        if status == "queued":
            _cancel(engine, run_id)


def cancel_experiment(engine: Engine, name: str, by: str = "") -> str:
    """Makes no more runs, and cancels those that wait or run. Raises UserError."""
    experiment_row(engine, name)
    if not end_experiment(engine, name, "cancelled"):
        raise UserError("is not running", where=name, kind=ErrorKind.NOT_RUNNING)
    for run_id in open_runs(engine, name):
        _cancel(engine, run_id, by)
    return "cancelled"


def resume_experiment(engine: Engine, name: str, owner: Owner | None = None, by: str = "") -> str:
    """Goes on with one that was cancelled, stopped or failed, its ended runs from their last
    checkpoints. Raises UserError for one that is running or has finished, and while a cancelled
    run of it is still stopping.

    Runs that failed while tuning are tried again only where their arm has no choice yet."""
    row = experiment_row(engine, name)
    status = row["status"]
    if status in ("running", "finished"):
        raise UserError(
            f"cannot be resumed: it is {status}", where=name, kind=ErrorKind.NOT_RESUMABLE
        )
    for run_id, state in _runs(engine, name):
        if state in OPEN:
            text = f"its run {run_id} is {state}: it may be stopping; else cancel it or let it end"
            raise UserError(text, where=name, kind=ErrorKind.NOT_RESUMABLE)
    plan = plan_of(engine, row)
    with begin(engine) as connection:
        resumed = connection.execute(
            update(table)
            .where(table.c.id == name, table.c.status == status)
            .values(status="running", error_text="", finished_at=None, **jobs.owner_values(owner))
        )
        if resumed.rowcount != 1:
            raise UserError(
                "another process has already resumed it", where=name, kind=ErrorKind.NOT_RESUMABLE
            )
        for key, run in plan.runs.items():
            lost = run.status == "failed" and key.stage == "tune" and key.arm in plan.chosen
            if run.status in jobs.RESUMABLE and not run.deleted and not lost:
                jobs.requeue_within(connection, run.run_id, waiter=owner, by=by)
    return "running"


def experiment_row(engine: Engine, name: str) -> RowMapping:
    """Raises UserError of kind "not found"."""
    with read(engine) as connection:
        row = connection.execute(select(table).where(table.c.id == name)).mappings().first()
    if row is None:
        raise UserError("no such experiment", where=name, kind=ErrorKind.NOT_FOUND)
    return row


def definition_of(row: RowMapping) -> Experiment:
    """Raises UserError where it was stored by a version with other fields."""
    try:
        return Experiment.model_validate(row["definition"])
    except ValidationError as error:
        text = f"another version of this program stored its definition ({first_problem(error)})"
        raise UserError(text, where=row["id"]) from None


def plan_of(engine: Engine, row: RowMapping) -> Plan:
    """What is done, and what is next."""
    definition = definition_of(row)
    runs = _arm_runs(engine, row["id"], definition)
    return Planner(definition, row["quick"], row["seeds"], runs).plan()


def criterion(
    metrics: Sequence[str], arm: Arm, evaluations: Sequence[tuple[int, str, float | None]]
) -> float | None:
    """What a tuning run is judged by, of (step, SUITE/METRIC, value) in the order of the steps.

    The mean of the metrics, over the evaluations after the start or of the last one; None where
    one of them was never measured."""
    means = []
    for metric in metrics:
        values = [v for step, name, v in evaluations if name == metric and step and v is not None]
        if not values:
            return None
        chosen = values if arm.judged_by == "mean" else values[-1:]
        means.append(math.fsum(chosen) / len(chosen))
    return math.fsum(means) / len(means)


def _arm_runs(engine: Engine, name: str, definition: Experiment) -> dict[Key, ArmRun]:
    run, figures = schema.run, schema.evaluation
    with read(engine) as connection:
        rows = connection.execute(
            select(links, run.c.status, run.c.deleted_at)
            .join(run, run.c.id == links.c.run_id)
            .where(links.c.experiment_id == name)
        ).all()
        tuned = [row.run_id for row in rows if row.stage == "tune"]
        scores: dict[str, list[tuple[int, str, float | None]]] = {}
        for e in connection.execute(
            select(figures).where(figures.c.run_id.in_(tuned)).order_by(figures.c.step)
        ):
            scores.setdefault(e.run_id, []).append((e.step, f"{e.suite}/{e.metric}", e.value))
    return {
        Key(row.stage, row.arm, row.choice, row.seed): ArmRun(
            row.run_id,
            row.status,
            criterion(
                definition.judged(row.arm),
                definition.arms[row.arm],
                scores.get(row.run_id, []),
            ),
            row.deleted_at is not None,
        )
        for row in rows
    }


def _cancel(engine: Engine, run_id: str, by: str = "") -> None:
    with suppress(UserError):  # it has ended meanwhile
        jobs.request_cancel(engine, run_id, "save", by)


def _runs(engine: Engine, name: str) -> list[tuple[str, str]]:
    run = schema.run
    with read(engine) as connection:
        rows = connection.execute(
            select(run.c.id, run.c.status)
            .join(links, links.c.run_id == run.c.id)
            .where(links.c.experiment_id == name, run.c.deleted_at.is_(None))
        ).all()
    return [(row.id, row.status) for row in rows]


def _by_key(connection: Connection, request_key: str | None) -> str | None:
    if request_key is None:
        return None
    return connection.scalar(select(table.c.id).where(table.c.request_key == request_key))


def count_experiments(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(table)) or 0
