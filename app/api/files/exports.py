"""REST routes of files: rollouts as tables at once; exports, reports and models in the background,
each a request that the file process answers with a file to download for a day."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field, model_validator
from starlette.responses import FileResponse, Response, StreamingResponse

from app.api.http.inputs import AskId, Body, Database, RunId, RunName
from app.api.http.replies import Json
from app.api.rollouts import RolloutParameters
from app.report import MAX_ROLLOUTS
from app.worker.files.kept import check_room, file_name, free_bytes, path_of
from app.worker.files.saved_model import model_size, room_for
from opd.errors import ErrorKind, UserError
from opd.files import remove
from opd.interchange.spreadsheet import csv_lines, parquet_pieces
from storage.queue import requests
from storage.read.rollout_table import table_rows
from storage.read.runs import read_run

router = APIRouter(prefix="/api/v1", tags=["files"])
MAX_RUNS = 100


class FileRequest(Body):
    """export: the rollouts of all runs in one file, with their token records, or as a flat table
    (CSV always is one). report, save: of one run. save: the folder of `opd save` as an archive."""

    kind: Literal["export", "report", "save"]
    runs: list[RunName] = Field(min_length=1, max_length=MAX_RUNS)
    format: Literal["jsonl", "parquet", "csv"] = "jsonl"
    table: bool = False
    rollouts: int = Field(20, ge=1, le=MAX_ROLLOUTS)
    merge: bool = False

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "FileRequest":
        if len(set(self.runs)) != len(self.runs):
            raise ValueError("runs names one of them twice")
        if self.kind != "export" and len(self.runs) > 1:
            raise ValueError(f"{self.kind} takes one run (got {len(self.runs)})")
        if self.kind == "export" and self.table and self.format == "jsonl":
            raise ValueError("a table is csv or parquet (got jsonl)")
        return self

    def payload(self) -> dict[str, Any]:
        of_kind = {"export": ("format", "table"), "report": ("rollouts",), "save": ("merge",)}
        return {name: getattr(self, name) for name in ("runs", *of_kind[self.kind])}


@router.get("/runs/{run_id}/rollouts.csv")
def rollouts_csv(
    engine: Database, run_id: RunId, parameters: Annotated[RolloutParameters, Query()]
) -> Response:
    """The rollouts that match, as CSV; `offset` and `limit` do not count."""
    lines = csv_lines(_matching(engine, run_id, parameters))
    return _table(lines, f"{run_id}-rollouts.csv", "text/csv")


@router.get("/runs/{run_id}/rollouts.parquet")
def rollouts_parquet(
    engine: Database, run_id: RunId, parameters: Annotated[RolloutParameters, Query()]
) -> Response:
    """The rollouts that match, as Parquet; `offset` and `limit` do not count."""
    pieces = parquet_pieces(_matching(engine, run_id, parameters))
    return _table(pieces, f"{run_id}-rollouts.parquet", "application/vnd.apache.parquet")


@router.get("/files")
def list_files(
    request: Request, engine: Database, run: Annotated[RunName | None, Query()] = None
) -> Response:
    """Requests for files, newest first, of one run or all: state, phase, progress, and when done
    the name and size of the file. Of one run, also `model`: what `save` would hold, in bytes."""
    if run is not None:
        stored = read_run(engine, run)
    items = [_shown(one) for one in requests.read_file_requests(engine) if _concerns(one, run)]
    content: dict[str, Any] = {"items": items, "total": len(items)}
    if run is not None:
        data_dir = request.app.state.data_dir
        content |= {"model": model_size(data_dir, stored), "free": free_bytes(data_dir)}
    return Json(content)


@router.post("/files", status_code=201)
def make_file(request: Request, engine: Database, body: FileRequest) -> Response:
    """Queues a request for a file. One that is alike and not done yet is given again."""
    data_dir = request.app.state.data_dir
    runs = [read_run(engine, run) for run in body.runs]
    if body.kind == "save":
        check_room(data_dir, room_for(data_dir, runs[0], merge=body.merge), "the model")
    else:
        check_room(data_dir, 0, "the file")
    payload = body.payload()
    for one in requests.read_file_requests(engine):
        alike = one["kind"] == body.kind and one["payload"] == payload
        if alike and one["state"] in ("queued", "running"):
            return Json({"id": one["id"]}, 201)
    return Json({"id": requests.enqueue(engine, body.kind, payload)}, 201)


@router.get("/files/{ask_id}")
def get_file(request: Request, engine: Database, ask_id: AskId) -> Response:
    """The file of a request that is done; a download always."""
    row = _file_request(engine, ask_id)
    path = path_of(request.app.state.data_dir, ask_id)
    if row["state"] != "done":
        raise UserError(f"is {row['state']}: there is no file", where=ask_id)
    if not path.is_file():
        raise UserError("was removed; make it again", where=ask_id, kind=ErrorKind.NOT_FOUND)
    return FileResponse(
        path,
        media_type="application/octet-stream",
        filename=file_name(row["kind"], row["payload"]),
        headers={"cache-control": "private, no-store"},
    )


@router.delete("/files/{ask_id}")
def remove_file(request: Request, engine: Database, ask_id: AskId) -> Response:
    """Cancels a request, or removes the file of one that is done."""
    _file_request(engine, ask_id)
    if not requests.fail(engine, ask_id, "cancelled by the client", kind=ErrorKind.CANCELLED):
        requests.remove(engine, ask_id)
        remove(path_of(request.app.state.data_dir, ask_id))
    return Json({"id": ask_id})


def _matching(engine: Database, run_id: str, parameters: RolloutParameters) -> Any:
    return table_rows(engine, run_id, **parameters.model_dump(exclude={"offset", "limit"}))


def _table(content: Any, name: str, media_type: str) -> Response:
    headers = {
        "content-disposition": f'attachment; filename="{name}"',
        "cache-control": "no-store",
    }
    return StreamingResponse(content, media_type=media_type, headers=headers)


def _file_request(engine: Database, ask_id: str) -> dict[str, Any]:
    """Raises "not found", also for a request that is not for a file."""
    row = requests.read_whole_request(engine, ask_id)
    if row["kind"] not in requests.FILE_KINDS:
        raise UserError("is not for a file", where=ask_id, kind=ErrorKind.NOT_FOUND)
    return row


def _concerns(one: dict[str, Any], run: str | None) -> bool:
    return run is None or run in one["payload"]["runs"]


def _shown(one: dict[str, Any]) -> dict[str, Any]:
    """A request with its answer's fields beside its own."""
    answer = one.pop("answer") or {}
    payload = one.pop("payload")
    return {
        **one,
        **payload,
        "file": file_name(one["kind"], payload),
        "progress": answer.get("progress"),
        **{name: answer.get(name) for name in ("bytes", "damaged", "step")},
    }
