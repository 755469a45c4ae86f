"""What a queued run waits for, in words."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Engine

from app.worker.devices.holds import in_use_by
from app.worker.owners.place import host_of
from storage.queue import jobs


def why_queued(engine: Engine, runs: Iterable[Mapping[str, Any]], trouble: str) -> dict[str, str]:
    """Run → what it waits for, of those that are queued and not about to start.

    `trouble` is why no supervisor starts any."""
    asked = {run["id"] for run in runs if run["status"] == "queued"}
    reasons = {}
    for row in jobs.next_queued(engine) if asked else ():
        if row["id"] not in asked:
            continue
        if row["phase"]:  # said by the launcher of a cluster
            reasons[row["id"]] = row["phase"]
            continue
        in_use = in_use_by(engine, row["device"], row["devices"])
        waiter = row["waiter"]
        if in_use and (waiter or not trouble):
            reasons[row["id"]] = ", ".join(f"{slot} in use by {by}" for slot, by in in_use.items())
        elif waiter:
            host = f" on {host_of(waiter)}" if host_of(waiter) else ""
            reasons[row["id"]] = f"the command that will run it, process {waiter.pid}{host}"
        elif trouble:
            reasons[row["id"]] = trouble
    return reasons
