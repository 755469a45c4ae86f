"""REST routes of uploads: data files that come in as a stream, and go when they are deleted."""

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from app.api.http.inputs import Database, Text
from app.api.http.replies import Json
from app.sources import uploads
from opd.errors import ErrorKind, UserError

router = APIRouter(prefix="/api/v1", tags=["files"])
WRITE_BYTES = 2**20  # at once: each write changes threads


@router.post("/uploads", status_code=201)
async def upload(
    request: Request,
    name: Annotated[Text, Query(max_length=1000)],
    content_length: Annotated[int, Header()] = 0,
) -> Response:
    """Takes a data file as the body, `name` with its ending; `value` is what prompts.source names.

    Every row is read before it is kept: what cannot be is refused with line and reason. The same
    content is kept once (`known`). `note` says why rows cannot be used with the default columns.
    """
    if not request.app.state.sources.upload_bytes:
        raise UserError(
            "this server takes no uploads (opd serve --upload-limit)",
            where="name",
            kind=ErrorKind.REFUSED_DATA,
        )
    with uploads.incoming(request.app.state.data_dir, name, content_length) as file:
        waiting = bytearray()
        try:
            async for piece in request.stream():
                waiting += piece
                if len(waiting) >= WRITE_BYTES:
                    await run_in_threadpool(file.write, bytes(waiting))
                    waiting.clear()
        except ClientDisconnect:
            raise UserError("the upload broke off", where="name") from None
        await run_in_threadpool(file.write, bytes(waiting))
        return Json(await run_in_threadpool(uploads.keep, request.app.state.data_dir, file), 201)


@router.delete("/uploads/{name}")
def delete_upload(request: Request, engine: Database, name: str) -> Response:
    """Deletes an upload, by the `file` of the list, unless a run that has not ended reads it."""
    uploads.delete(engine, request.app.state.data_dir, name)
    return Json({"file": name})
