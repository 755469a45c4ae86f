"""Runs as they are, where nobody has recorded their end yet. Nothing is written: for commands that
only look, on an archive too."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine

from app.worker.owners.place import host_of
from app.worker.owners.standing import Beat, Judge, Standing
from opd.errors import ErrorKind
from storage.data_dir import DataDir
from storage.queue import jobs

UNFINISHED = ("queued", "running")
Run = dict[str, Any]


def as_seen(engine: Engine, data_dir: DataDir, runs: Sequence[Mapping[str, Any]]) -> list[Run]:
    """The runs; those without a living owner are given the end that will be recorded of them."""
    if not any(run["status"] in UNFINISHED for run in runs):
        return [dict(run) for run in runs]
    ends = _ends(engine, data_dir)
    return [{**run, **ends.get(run["id"], {})} for run in runs]


def with_status(
    engine: Engine,
    data_dir: DataDir,
    stored: Callable[[str], list[Run]],
    status: str,
    runs: Sequence[Run],
) -> list[Run]:
    """The runs of that status as seen: `runs`, of which it is stored, less those that have ended,
    then those that have ended so. `stored` reads the runs of a stored status."""
    kept = [run for run in as_seen(engine, data_dir, runs) if run["status"] == status]
    if status not in UNFINISHED:
        others = as_seen(engine, data_dir, [run for s in UNFINISHED for run in stored(s)])
        kept += [run for run in others if run["status"] == status]
    return kept


def _ends(engine: Engine, data_dir: DataDir) -> dict[str, Run]:
    """By run, what differs of those that are called running, or that wait for a command, and have
    no owner any more. One look decides, where a supervisor looks again."""
    judge = Judge(data_dir)
    ends: dict[str, Run] = {}
    for row in jobs.running(engine):
        standing = judge.standing(row["id"], row["owner"], Beat(row["heartbeat_at"], row["age"]))
        if standing != "living":
            ends[row["id"]] = _end(row, standing)
    for row in jobs.next_queued(engine):
        beat = Beat(row["heartbeat_at"], row["age"])
        waiter = row["waiter"]
        if waiter is not None and judge.standing(row["id"], waiter, beat) != "living":
            ends[row["id"]] = {"status": "cancelled", "phase": ""}
    return ends


def _end(row: Mapping[str, Any], standing: Standing) -> Run:
    if row["cancel_mode"]:
        return {"status": "cancelled", "phase": ""}
    kind, text = ErrorKind.KILLED, "the job's process is gone"
    if standing != "gone":
        owner = row["owner"]
        kind = ErrorKind.LOST
        text = f"no heartbeat from process {owner.pid} on {host_of(owner) or 'another host'}"
        text += f" for {row['age']:.0f} s" if row["age"] is not None else ""
    failure = {"error_kind": kind.value, "error_text": text, "hint": kind.hint}
    return {"status": "interrupted", "phase": "", **failure}
