"""The hosts whose supervisors work on this database, each as it last told of itself."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, delete, insert, select, update

from storage.engine import DatabaseTime, begin, read
from storage.schema import host, run

KEPT_SECONDS = 7 * 86_400.0  # of a host that tells no more


@dataclass(frozen=True)
class SeenHost:
    """`age` in seconds by the database's clock, since it was last heard of; `ahead`: by how many
    its own clock then was ahead of that."""

    boot: str
    name: str
    devices: list[dict[str, Any]]
    age: float
    ahead: float = 0.0


@dataclass(frozen=True)
class TakenSlot:
    """A single device of a pool, and the run that has it."""

    pool: str
    slot: str
    run_id: str
    run_name: str
    started_by: str


def tell_host(
    engine: Engine, boot: str, name: str, devices: list[dict[str, Any]], ahead: float = 0.0
) -> None:
    """Says that the host is there, with its devices and how far its clock is `ahead`."""
    values = {"name": name, "devices": devices, "seen_at": DatabaseTime(), "ahead": ahead}
    with begin(engine) as connection:
        updated = connection.execute(update(host).where(host.c.boot == boot).values(values))
        if updated.rowcount == 0:
            connection.execute(insert(host).values(boot=boot, **values))
            connection.execute(delete(host).where(host.c.seen_at < DatabaseTime() - KEPT_SECONDS))


def read_hosts(engine: Engine) -> list[SeenHost]:
    """By their names; one that was started anew is there under each boot, the newest first."""
    age = (DatabaseTime() - host.c.seen_at).label("age")
    columns = (host.c.boot, host.c.name, host.c.devices, age, host.c.ahead)
    query = select(*columns).order_by(host.c.name, age)
    with read(engine) as connection:
        return [SeenHost(*row) for row in connection.execute(query)]


def taken_slots(engine: Engine) -> list[TakenSlot]:
    """Of all hosts and jobs of clusters."""
    query = select(run.c.pool, run.c.slot, run.c.id, run.c.name, run.c.started_by)
    with read(engine) as connection:
        rows = connection.execute(query.where(run.c.status == "running").order_by(run.c.attempt_at))
        return [
            TakenSlot(row.pool or "", one, row.id, row.name, row.started_by)
            for row in rows
            for one in str(row.slot).split(",")
        ]
