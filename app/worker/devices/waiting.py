"""What a queued run waits for, in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine

from app.worker.devices.holds import in_use_by
from app.worker.devices.inventory import HostDevices, serving_hosts
from app.worker.owners.place import host_of
from storage.queue import jobs


def why_queued(
    engine: Engine,
    runs: Iterable[Mapping[str, Any]],
    trouble: str,
    hosts: Sequence[HostDevices] | None = None,
) -> dict[str, str]:
    """Run → what it waits for, of those that are queued and not about to start.

    `trouble` is why no supervisor starts any; `hosts` those that take runs, where they are known.
    """
    queued = {run["id"] for run in runs if run["status"] == "queued"}
    if hosts is None:
        hosts = serving_hosts(engine) if queued else []
    reasons = {}
    for row in jobs.next_queued(engine) if queued else ():
        if row["id"] not in queued:
            continue
        if row["phase"]:  # said by the launcher of a cluster
            reasons[row["id"]] = row["phase"]
            continue
        waiter = row["waiter"]
        if len(hosts) > 1 and waiter is None:
            if reason := _in_use_anywhere(hosts, row["device"], row["devices"]):
                reasons[row["id"]] = reason
            continue
        in_use = in_use_by(engine, row["device"], row["devices"])
        if in_use and (waiter or not trouble):
            reasons[row["id"]] = ", ".join(f"{slot} in use by {by}" for slot, by in in_use.items())
        elif waiter:
            host = f" on {host_of(waiter)}" if host_of(waiter) else ""
            reasons[row["id"]] = f"the command that will run it, process {waiter.pid}{host}"
        elif trouble:
            reasons[row["id"]] = trouble
    return reasons


def _in_use_anywhere(hosts: Sequence[HostDevices], device: str, count: int) -> str:
    """What has the devices of all hosts that the run may take; "" where one host has enough. Hosts
    without such a device do not count, unless none has it."""
    hosts = [host for host in hosts if host.has(device)] or hosts
    if any(host.free_for(device, count) for host in hosts):
        return ""
    return ", ".join(
        f"{taken.slot} on {host.name} in use by {taken.run_id}"
        + (f" ({taken.started_by})" if taken.started_by else "")
        for host in hosts
        for taken in host.in_use(device)
    )
