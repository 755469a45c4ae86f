"""Runs and the jobs that a cluster was given for them: `run.cluster_job`.

It is `LAUNCHER:?KEY` from when a controller takes it upon itself to submit, and `LAUNCHER:JOB` once
that is known; null where nothing was submitted, or nothing is left of it. A queued run's heartbeat
is that of the submission.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Engine, RowMapping, select, update

from storage.engine import DatabaseTime, begin, read
from storage.queue.jobs import Owner, owner_of
from storage.schema import run
from storage.text import clean

RESERVED_SECONDS = 20.0
_columns = (
    *(run.c.id, run.c.status, run.c.attempt, run.c.cluster_job, run.c.pool, run.c.slot),
    *(run.c.heartbeat_at, run.c.cancel_mode, run.c.queued_at, run.c.phase),
    *(run.c.owner_pid, run.c.owner_started, run.c.owner_boot, run.c.owner_place, run.c.config),
    (DatabaseTime() - run.c.heartbeat_at).label("age"),
)


@dataclass(frozen=True)
class Placed:
    """A run as whoever places it sees it. `age` is that of its heartbeat by the database's clock,
    in seconds; `claimed`: whether that very job has it, or had it last."""

    id: str
    status: str
    attempt: int
    job: str | None
    claimed: bool
    slot: str
    owner: Owner | None
    heartbeat_at: float | None
    age: float | None
    cancel_mode: str | None
    queued_at: float
    phase: str
    config: dict[str, Any]


def submitting(launcher: str, key: str) -> str:
    """What stands for a job whose own name is not known yet."""
    return f"{launcher}:?{key}"


def unplaced(engine: Engine, launcher: str) -> list[Placed]:
    """Queued runs that no command will run and that this launcher has no known job of, oldest
    first: those never submitted, and those whose submission is under way or was cut short."""
    other = run.c.cluster_job.is_(None) | run.c.cluster_job.startswith(submitting(launcher, ""))
    here = (run.c.status == "queued", run.c.owner_pid.is_(None), run.c.deleted_at.is_(None), other)
    return _placed(engine, *here)


def placed(engine: Engine, launcher: str) -> list[Placed]:
    """Runs of any status of which this launcher has a job, as far as is known."""
    submitted = ~run.c.cluster_job.startswith(submitting(launcher, ""))
    return _placed(engine, run.c.cluster_job.startswith(f"{launcher}:"), submitted)


def job_of(engine: Engine, run_id: str) -> str | None:
    """What is stored of the run's job."""
    with read(engine) as connection:
        query = select(run.c.cluster_job).where(run.c.id == run_id)
        job: str | None = connection.scalar(query)
        return job


def reserve(engine: Engine, row: Placed, name: str) -> bool:
    """Takes it upon the caller to submit the run; `name` is that of `submitting`. False: another
    one does."""
    same = run.c.cluster_job.is_(None) if row.job is None else run.c.cluster_job == row.job
    beat = (
        run.c.heartbeat_at.is_(None)
        if row.heartbeat_at is None
        else run.c.heartbeat_at == row.heartbeat_at
    )
    queued = (run.c.status == "queued", run.c.queued_at == row.queued_at)
    return _change(engine, row.id, same, beat, *queued, cluster_job=name, beats=True)


def reserve_for_host(engine: Engine, run_id: str, boot: str) -> bool:
    """Takes it upon this host's supervisor to start a queued run, for a while; to be said again
    until its job has claimed it. False: another host's does. Nothing but a claim makes it its."""
    old = run.c.heartbeat_at < DatabaseTime() - RESERVED_SECONDS
    free = run.c.heartbeat_at.is_(None) | (run.c.pool == boot) | old
    unowned = (run.c.status == "queued", run.c.owner_pid.is_(None))
    return _change(engine, run_id, *unowned, free, pool=boot, beats=True)


def record(engine: Engine, run_id: str, name: str, job: str) -> bool:
    """What the launcher calls what was submitted; `name` is that of `submitting`."""
    return _change(engine, run_id, run.c.cluster_job == name, cluster_job=job)


def forget(engine: Engine, run_id: str, job: str) -> bool:
    """Nothing is left of that job; a queued run is submitted anew."""
    return _change(engine, run_id, run.c.cluster_job == job, cluster_job=None)


def tell(engine: Engine, row: Placed, text: str) -> None:
    """What a queued run waits for."""
    if row.phase != (said := clean(text)[:200]):
        _change(engine, row.id, run.c.status == "queued", phase=said)


def _placed(engine: Engine, *conditions: ColumnElement[bool]) -> list[Placed]:
    query = select(*_columns).where(*conditions).order_by(run.c.queued_at, run.c.id)
    with read(engine) as connection:
        return [_row(row) for row in connection.execute(query).mappings()]


def _row(row: RowMapping) -> Placed:
    names = ("id", "status", "attempt", "heartbeat_at", "age", "cancel_mode")
    return Placed(
        **{name: row[name] for name in (*names, "queued_at", "phase", "config")},
        job=row["cluster_job"],
        claimed=row["cluster_job"] is not None and row["pool"] == row["cluster_job"],
        slot=row["slot"] or "",
        owner=owner_of(row),
    )


def _change(
    engine: Engine,
    run_id: str,
    *conditions: ColumnElement[bool],
    beats: bool = False,
    **values: Any,
) -> bool:
    if beats:
        values["heartbeat_at"] = DatabaseTime()
    with begin(engine) as connection:
        changed = connection.execute(
            update(run).where(run.c.id == run_id, *conditions).values(**values)
        )
        return changed.rowcount == 1
