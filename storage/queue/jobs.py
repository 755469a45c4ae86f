"""The queue of runs. Every change of state is one guarded UPDATE in one short transaction.

A run that is `running` belongs to one attempt; whoever holds an older attempt is told LeaseLost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Engine, RowMapping, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from opd.config.names import check_name
from opd.config.resuming import with_changes
from opd.config.run import RunConfig
from opd.errors import ErrorKind, UserError
from opd.types import RunStatus
from storage import clock
from storage.databases.turns import take_turn
from storage.engine import DatabaseTime, begin, read
from storage.lookups import run_row
from storage.queue.failure import Failure
from storage.queue.new_run import new_row
from storage.queue.run_details import checked_tags, checked_text, stopped_otherwise, write_tags
from storage.schema import checkpoint, run
from storage.text import clean

CancelMode = Literal["save", "discard"]
RESUMABLE = ("interrupted", "failed", "cancelled")
CLAIMABLE = ("queued", "interrupted")
MAX_KEY = 200
SILENT_SECONDS = 60  # a heartbeat older than this marks the end of an attempt that just vanished


class LeaseLost(UserError):
    """The run is no longer this attempt's; whoever gets this must stop writing to it."""

    def __init__(self, run_id: str, attempt: int) -> None:
        super().__init__(
            f"attempt {attempt} no longer owns this run", where=run_id, kind=ErrorKind.LEASE_LOST
        )


@dataclass(frozen=True)
class Owner:
    """A process, told apart from a later one with the same pid."""

    pid: int
    started: float  # psutil's create_time
    boot: str  # the machine's boot id
    place: str | None = None  # host, PID namespace, data directory; see `app.worker.place`


def create_run(
    engine: Engine,
    config: RunConfig,
    *,
    recipe: str = "",
    parent: str | None = None,
    request_key: str | None = None,
    tags: Sequence[str] = (),
    source: Literal["train", "import"] = "train",
    waiter: Owner | None = None,
    started_by: str = "",
) -> str:
    """Queues a run and returns its id. The same request_key always gives the same run.

    Local paths are stored as absolute ones: attempts may start in any directory.

    `waiter` is a process that will claim the run itself, once its device is free. `started_by`
    names who did, for people who share the database.

    An import is not queued: it stays hidden until `records.import_rollouts` has it whole.
    """
    labels = checked_tags(tags)
    check_name(config.name.strip(), where="name")
    key = None if request_key is None else checked_text(request_key, MAX_KEY, "request_key")
    row = new_row(config, recipe=clean(recipe), source=source)
    row |= _waiter_values(waiter) | {"started_by": clean(started_by)[:MAX_KEY]}
    try:
        with begin(engine) as connection:
            existing = key and connection.scalar(select(run.c.id).where(run.c.request_key == key))
            if existing:
                return str(existing)
            if parent is not None:
                run_row(connection, parent)
            now = clock.now(connection)
            row |= {"created_at": now, "queued_at": now}
            row["finished_at"] = now if source == "import" else None
            connection.execute(insert(run).values(**row, parent=parent, request_key=key))
            write_tags(connection, row["id"], labels)
            return str(row["id"])
    except IntegrityError:  # only where writers do not wait for each other (PostgreSQL)
        with read(engine) as connection:
            existing = connection.scalar(select(run.c.id).where(run.c.request_key == key))
        if not existing:
            raise
        return str(existing)


def claim(
    engine: Engine,
    run_id: str,
    slot: str,
    owner: Owner,
    pool: str | None = None,
    given_as: Sequence[str] = (),
) -> int | None:
    """Makes a queued or interrupted run running in `slot` and returns the attempt's number.

    A slot may be several, with commas between them. None: one is taken, or the run cannot be
    claimed now.

    pool: whose slots these are; by default those of the owner's machine.

    given_as: of a cluster's job, its names in `cluster_job`: only a queued run that bears one of
    them is claimed, and bears the pool's from then on.
    """
    here = pool or owner.boot
    cluster = {"cluster_job": pool} if given_as else {}
    given = (run.c.status == "queued", run.c.cluster_job.in_(given_as)) if given_as else ()
    with begin(engine) as connection:
        take_turn(connection, f"slots of {here}")
        if _is_taken(connection, here, slot):
            return None
        now = clock.now(connection)
        claimed = connection.execute(
            update(run)
            .where(
                *(run.c.id == run_id, run.c.status.in_(CLAIMABLE), run.c.deleted_at.is_(None)),
                *given,
            )
            .values(
                status="running",
                attempt=run.c.attempt + 1,
                slot=slot,
                pool=here,
                heartbeat_at=DatabaseTime(),
                started_at=func.coalesce(run.c.started_at, now),
                attempt_at=now,
                finished_at=None,
                phase="starting",
                **_CLEARED,
                **cluster,
                **owner_values(owner),
            )
        )
        if claimed.rowcount != 1:
            return None
        return int(connection.execute(select(run.c.attempt).where(run.c.id == run_id)).scalar_one())


def next_queued(engine: Engine) -> list[dict[str, Any]]:
    """Queued runs, oldest first: id, device, devices (how many), waiter (an Owner that will claim
    it, or None), and the waiter's heartbeat_at and age as in `running`; phase, with what a cluster
    says about it."""
    with read(engine) as connection:
        rows = connection.execute(
            _with_age.where(run.c.status == "queued", run.c.deleted_at.is_(None)).order_by(
                run.c.queued_at, run.c.id
            )
        ).mappings()
        names = ("id", "device", "heartbeat_at", "age", "phase")
        return [
            {
                **{n: r[n] for n in names},
                "devices": r["config"].get("devices", 1),
                "waiter": owner_of(r),
            }
            for r in rows
        ]


def still_waiting(engine: Engine, run_id: str) -> None:
    """The heartbeat of whoever waits for a queued run's device."""
    with begin(engine) as connection:
        connection.execute(
            update(run)
            .where(run.c.id == run_id, run.c.status == "queued")
            .values(heartbeat_at=DatabaseTime())
        )


def running(engine: Engine) -> list[dict[str, Any]]:
    """Runs that are running: id, name, attempt, owner, heartbeat_at, age, cancel_mode, cancel_at,
    cancel_age, pool, slot, phase, cluster_job.

    `owner` is an Owner; `age` that of its heartbeat in seconds, by the database's clock, as is
    `cancel_age` since its end was asked for."""
    with read(engine) as connection:
        rows = connection.execute(
            _with_age.where(run.c.status == "running").order_by(run.c.attempt_at)
        ).mappings()
        return [_running_item(row) for row in rows]


def heartbeat(engine: Engine, run_id: str, attempt: int) -> str | None:
    """Says that the attempt is alive; returns the way of cancelling asked for, or None.

    Raises LeaseLost."""
    with begin(engine) as connection:
        hold(connection, run_id, attempt)
        mode: str | None = connection.scalar(select(run.c.cancel_mode).where(run.c.id == run_id))
        return mode


def set_phase(engine: Engine, run_id: str, attempt: int, text: str) -> None:
    """What the run is doing now, for people who wait. Raises LeaseLost."""
    _update_attempt(engine, run_id, attempt, {"phase": clean(text)[:200]})


def hold(connection: Connection, run_id: str, attempt: int) -> None:
    """Stamps the attempt's heartbeat inside the caller's transaction. Raises LeaseLost."""
    held = connection.execute(
        update(run).where(*_held(run_id, attempt)).values(heartbeat_at=DatabaseTime())
    )
    if held.rowcount != 1:
        raise LeaseLost(run_id, attempt)


def finish(
    engine: Engine,
    run_id: str,
    attempt: int,
    status: RunStatus,
    failure: Failure | None = None,
    *,
    end_reason: str = "",
) -> bool:
    """Ends a running attempt. False: it was no longer the run's, and nothing was changed.

    `end_reason` says why a run finished before its last step."""
    with begin(engine) as connection:
        now = clock.now(connection)
        held = select(run).where(*_held(run_id, attempt)).with_for_update(key_share=True)
        row = connection.execute(held).mappings().first()
        if row is None:
            return False
        last = row["heartbeat_at"]
        end = last if now - last > SILENT_SECONDS else now
        connection.execute(
            update(run)
            .where(*_held(run_id, attempt))
            .values(
                status=status,
                finished_at=end,
                seconds=run.c.seconds + max(0.0, end - row["attempt_at"]),
                phase="",
                error_kind=failure.kind if failure else "",
                error_text=clean(failure.text) if failure else "",
                hint=failure.kind.hint if failure else "",
                end_reason=clean(end_reason),
            )
        )
        return True


def request_cancel(
    engine: Engine, run_id: str, mode: CancelMode, by: str = "", seen: str | None = None
) -> str:
    """Asks a running run to stop, and cancels one that waits at once; returns the new status. `by`
    as `started_by` above. `seen`: how the run is known to be stopping, "" for not; UserError where
    somebody has asked for another way meanwhile."""
    if mode not in ("save", "discard"):
        raise UserError("must be save or discard", where="mode")
    with begin(engine) as connection:
        now = clock.now(connection)
        row = run_row(connection, run_id)
        status = str(row["status"])
        if status in CLAIMABLE:
            status = "cancelled"
            values: dict[str, Any] = {"status": status, "finished_at": now, "phase": ""}
        elif status != "running":
            text = f"has already ended ({status})"
            raise UserError(text, where=run_id, kind=ErrorKind.NOT_RUNNING)
        elif row["cancel_mode"] == mode:
            return status
        elif seen is not None and seen != (row["cancel_mode"] or ""):
            raise stopped_otherwise(run_id, row["cancel_mode"], row["cancel_by"])
        else:
            values = {"cancel_mode": mode, "cancel_at": now}
        values["cancel_by"] = clean(by)[:MAX_KEY]
        connection.execute(update(run).where(run.c.id == run_id).values(**values))
        return status


def requeue(
    engine: Engine,
    run_id: str,
    waiter: Owner | None = None,
    *,
    accept_changes: bool = False,
    settings: Sequence[str] = (),
    by: str = "",
) -> None:
    """Queues an interrupted, failed or cancelled run again; it goes on from its checkpoint.

    `waiter` as in `create_run`; with `accept_changes`, also where what it depends on has changed.
    settings: `field=value` of `opd.config.resuming`. `by` as `started_by`. Raises UserError.
    """
    more: dict[str, Any] = {"accept_changes": accept_changes, "settings": settings, "by": by}
    with begin(engine) as connection:
        requeue_within(connection, run_id, waiter, **more)


def requeue_within(
    connection: Connection,
    run_id: str,
    waiter: Owner | None = None,
    *,
    accept_changes: bool = False,
    settings: Sequence[str] = (),
    by: str = "",
) -> None:
    """`requeue` inside the caller's transaction."""
    row = run_row(connection, run_id)
    status, inputs = row["status"], row["inputs"]
    if status not in RESUMABLE:
        raise UserError(
            f"cannot be resumed: it is {status}", where=run_id, kind=ErrorKind.NOT_RESUMABLE
        )
    now = clock.now(connection)
    queued = {"status": "queued", "queued_at": now, "finished_at": None, "phase": ""}
    queued["cluster_job"] = None
    values = queued | _CLEARED | _waiter_values(waiter) | {"resumed_by": clean(by)[:MAX_KEY]}
    changes: list[dict[str, str]] = []
    if settings:
        config, changes = with_changes(row["config"], settings)
        values |= {"config": config.model_dump(mode="json"), "device": config.device}
    if inputs is not None:
        accepted = list(inputs.get("accepted", []))
        if changes:
            saved = select(func.max(checkpoint.c.step)).where(checkpoint.c.run_id == run_id)
            begins = {"attempt": row["attempt"] + 1, "step": connection.scalar(saved) or 0}
            accepted.append(begins | {"changes": changes})
        values["inputs"] = {**inputs, "accept": accept_changes, "accepted": accepted}
    connection.execute(update(run).where(run.c.id == run_id).values(values))


_with_age = select(
    run,
    (DatabaseTime() - run.c.heartbeat_at).label("age"),
    (DatabaseTime() - run.c.cancel_at).label("cancel_age"),
)

_CLEARED: dict[str, Any] = {
    **{"cancel_mode": None, "cancel_at": None, "cancel_by": ""},
    "error_kind": "",
    "error_text": "",
    "hint": "",
}


def owner_values(owner: Owner | None) -> dict[str, Any]:
    """The columns that hold a process."""
    names = ("pid", "started", "boot", "place")
    return {f"owner_{name}": getattr(owner, name, None) for name in names}


def _waiter_values(waiter: Owner | None) -> dict[str, Any]:
    return {**owner_values(waiter), "heartbeat_at": DatabaseTime() if waiter else None}


def owner_of(row: RowMapping) -> Owner | None:
    if row["owner_pid"] is None:
        return None
    return Owner(*(row[f"owner_{name}"] for name in ("pid", "started", "boot", "place")))


def _held(run_id: str, attempt: int) -> tuple[Any, ...]:
    return (run.c.id == run_id, run.c.attempt == attempt, run.c.status == "running")


def _is_taken(connection: Connection, pool: str, slot: str) -> bool:
    """Whether a run has the slot of that pool, or one of several."""
    held = connection.scalars(
        select(run.c.slot).where(run.c.status == "running", run.c.pool == pool)
    )
    slots = set(slot.split(","))
    return any(slots & set(str(one).split(",")) for one in held)


def _running_item(row: RowMapping) -> dict[str, Any]:
    names = ("id", "name", "attempt", "heartbeat_at", "age", "cancel_mode", "cancel_at", "slot")
    more = ("cancel_age", "pool", "phase", "cluster_job")
    return {**{name: row[name] for name in (*names, *more)}, "owner": owner_of(row)}


def _update_attempt(engine: Engine, run_id: str, attempt: int, values: dict[str, Any]) -> None:
    with begin(engine) as connection:
        changed = connection.execute(update(run).where(*_held(run_id, attempt)).values(**values))
        if changed.rowcount != 1:
            raise LeaseLost(run_id, attempt)
