"""REST routes of runs: start, edit, cancel, resume, delete."""

import time
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Body, Query, Request
from starlette.responses import Response

from app.api.http.inputs import (
    CancelRun,
    Database,
    EditRun,
    IfMatch,
    ResumeRun,
    RunId,
    StartRun,
    User,
    seen_version,
)
from app.api.http.replies import Json
from app.api.run_table import with_disk
from app.worker.devices.holds import in_use_by
from app.worker.devices.inventory import serving_hosts
from app.worker.devices.waiting import why_queued
from app.worker.run_files.choice import run_files
from app.worker.run_inputs import changed_inputs, check_unchanged
from opd.devices.gpus import DriverReport, ask_driver, gpu_of
from opd.types import RunStatus
from storage.queue import jobs, run_details
from storage.read.runs import read_evaluations, read_run, read_steps
from storage.system_usage import usage_columns

router = APIRouter(prefix="/api/v1", tags=["runs"])
GPU_AGE = 2.0  # seconds


@router.post("/runs", status_code=201)
def start_run(engine: Database, body: StartRun, user: User) -> Response:
    """Queues a run; the same `request_key` always gives the same run."""
    config = body.validated()
    if body.name is not None:
        config = config.model_copy(update={"name": body.name})
    run_id = jobs.create_run(
        engine,
        config,
        recipe=body.recipe or "",
        parent=body.parent,
        request_key=body.request_key,
        tags=tuple(body.tags),
        started_by=user,
    )
    return Json({"id": run_id}, 201)


@router.get("/runs/{run_id}")
def get_run(request: Request, engine: Database, run_id: RunId) -> Response:
    """A run; `waits_for` names the slots of this host that a queued one waits for, each with the
    run there, where no other host takes runs; `waits_because` says the same, or what else keeps it
    from starting, in words."""
    run = read_run(engine, run_id)
    run["waits_for"] = {}
    hosts = serving_hosts(engine) if run["status"] == "queued" else []
    if len(hosts) == 1:
        run["waits_for"] = in_use_by(engine, run["device"], run["config"].get("devices", 1))
    run["waits_because"] = why_queued(engine, [run], request.app.state.trouble(), hosts).get(run_id)
    return Json(with_disk(run, request.app.state.data_dir))


@router.get("/runs/{run_id}/gpu")
def run_gpu(engine: Database, run_id: RunId) -> Response:
    """The GPU of a running run, as its driver tells: name, bytes in all and free, use in percent.

    Null for what is not known: without nvidia-smi, and where the run has no GPU now.
    """
    run = read_run(engine, run_id)
    slot = run["slot"] if run["status"] == "running" else None
    gpu = (
        gpu_of(slot.partition(",")[0], _driver_report(int(time.monotonic() / GPU_AGE)))
        if slot
        else None
    )
    facts = {name: getattr(gpu, name, None) for name in ("name", "total", "free", "use")}
    return Json({"slot": slot, **facts})


@router.patch("/runs/{run_id}")
def edit_run(
    request: Request,
    engine: Database,
    run_id: RunId,
    body: EditRun,
    if_match: IfMatch = None,
) -> Response:
    """Changes name, notes and tags. With the header `If-Match: VERSION`, refused with 409 and
    `current` where somebody else has edited the run since it had that version."""
    change = run_details.RunEdit(**body.model_dump())
    run_details.edit(engine, run_id, change, version=seen_version(if_match))
    return get_run(request, engine, run_id)


@router.delete("/runs/{run_id}")
def delete_run(engine: Database, run_id: RunId, status: RunStatus | None = None) -> Response:
    """Hides the run; `restore` brings it back. With `status`, in which the sender has seen the run,
    refused with 409 where it has another by now."""
    run_details.delete_run(engine, run_id, status=status)
    return Json({"id": run_id})


@router.post("/runs/{run_id}/restore")
def restore_run(engine: Database, run_id: RunId) -> Response:
    run_details.restore_run(engine, run_id)
    return Json({"id": run_id})


@router.post("/runs/{run_id}/cancel")
def cancel_run(
    engine: Database,
    run_id: RunId,
    user: User,
    body: Annotated[CancelRun | None, Body()] = None,
) -> Response:
    """Stops a run: `save` keeps a checkpoint to resume from, `discard` does not."""
    cancel = body or CancelRun()
    status = jobs.request_cancel(engine, run_id, cancel.mode, user, cancel.asked)
    return Json({"id": run_id, "status": status})


@router.post("/runs/{run_id}/resume")
def resume_run(
    request: Request,
    engine: Database,
    run_id: RunId,
    user: User,
    body: Annotated[ResumeRun | None, Body()] = None,
) -> Response:
    """Queues the run again. Refused with 409 and `changes` where models or data have changed since
    its start, unless `accept_changes`."""
    accept = body is not None and body.accept_changes
    if not accept:
        check_unchanged(engine, request.app.state.data_dir, run_id)
    settings = body.set if body is not None else []
    jobs.requeue(engine, run_id, accept_changes=accept, settings=settings, by=user)
    return Json({"id": run_id, "status": "queued"})


@router.get("/runs/{run_id}/changes")
def list_changes(request: Request, engine: Database, run_id: RunId) -> Response:
    """The models and data that have changed since the run started, which `resume` would refuse."""
    items = changed_inputs(engine, request.app.state.data_dir, run_id)
    return Json({"items": items, "total": len(items)})


@router.get("/runs/{run_id}/steps")
def list_steps(
    engine: Database, run_id: RunId, after: Annotated[int, Query(ge=-1, le=10**9)] = -1
) -> Response:
    """The metrics of every step after `after`, one list per column."""
    return Json(read_steps(engine, run_id, after=after))


@router.get("/runs/{run_id}/evaluations")
def list_evaluations(engine: Database, run_id: RunId) -> Response:
    return Json(read_evaluations(engine, run_id))


@router.get("/runs/{run_id}/system")
def list_system_usage(request: Request, engine: Database, run_id: RunId) -> Response:
    """What the run's machine did over wall time, one list per figure; empty of an import."""
    read_run(engine, run_id)  # raises for one that does not exist
    data_dir = request.app.state.data_dir
    name = data_dir.name_of(data_dir.run(run_id).system_usage)
    return Json(usage_columns(run_files(data_dir).content(name)))


@lru_cache(maxsize=1)
def _driver_report(age: int) -> DriverReport:
    """Asked once for all who look within GPU_AGE."""
    del age
    return ask_driver()
