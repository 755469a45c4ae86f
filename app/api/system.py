"""REST routes of what lies outside the database: the server's health and a job's log file."""

import codecs
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from app.access import Caller
from app.api.http.inputs import MAX_OFFSET, Database, RunId
from app.api.http.replies import Json
from app.version import program_version
from app.worker.devices.inventory import all_hosts
from app.worker.launchers.output import log_elsewhere, log_of
from app.worker.standby import waiting
from storage import locks
from storage.data_dir import DataDir
from storage.engine import where
from storage.files.presence import gone
from storage.read.runs import read_run

router = APIRouter(prefix="/api/v1", tags=["system"])
LOG_BYTES = 65_536
MAX_LOG_BYTES = 262_144


@router.get("/health")
def health(request: Request) -> Response:
    """Whether jobs can start, or the `reason` why not; the process that waits for the next one with
    its memory in bytes, and of the caller's token the access (full, view or none) and the `user`
    whom it is named after, or null."""
    missing = gone(request.app.state.engine)
    reason = f"{where(request.app.state.engine)} {missing}" if missing else ""
    caller = getattr(request.state, "caller", Caller("none"))
    reason = reason or request.app.state.trouble()
    return Json(
        {
            "ok": not reason,
            "reason": reason or None,
            "version": program_version(),
            "supervisor": supervisor_alive(request.app.state.data_dir),
            "standby": waiting(request.app.state.data_dir),
            "access": caller.access,
            "user": caller.name or None,
        }
    )


@router.get("/hosts")
def list_hosts(request: Request, engine: Database) -> Response:
    """The hosts that take runs of this database, this one first (`here`), each with its devices:
    slot, name, memory in bytes, and the `run` that has it. `age`: seconds since a host was last
    heard of; `seen`: within the last minute. After a day it is left out. `clock`: how far its clock
    is from the database's, where that is over a minute, else null. `shared`: whether others
    may come, as they cannot to SQLite."""
    items = [host.as_dict() for host in all_hosts(engine)]
    shared = bool(request.app.state.data_dir.host)
    return Json({"items": items, "total": len(items), "shared": shared})


@router.get("/runs/{run_id}/log")
def read_log(
    request: Request,
    engine: Database,
    run_id: RunId,
    offset: Annotated[int | None, Query(ge=0, le=1000 * MAX_OFFSET)] = None,
    limit: Annotated[int, Query(ge=16, le=MAX_LOG_BYTES)] = LOG_BYTES,
) -> Response:
    """Part of the job's log from byte `offset`; by default its end. `host` where it cannot be seen
    from here: the one on which it lies."""
    run = read_run(engine, run_id)
    log = log_of(request.app.state.data_dir, run)
    if log is None:
        host = log_elsewhere(run)
        return Json({"text": "", "next": 0, "size": 0} | ({"host": host} if host else {}))
    start = max(log.size - limit, 0) if offset is None else min(offset, log.size)
    text, used = _decoded(log.read(start, limit))
    return Json({"text": text, "next": start + used, "size": log.size})


def _decoded(data: bytes) -> tuple[str, int]:
    """The text and how many bytes it took: a character cut off at the end waits for its rest."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data, final=False)
    return text, len(data) - len(decoder.getstate()[0])


def supervisor_alive(data_dir: DataDir) -> bool:
    """Whether a supervisor holds its lock."""
    return locks.held(data_dir.supervisor_lock)
