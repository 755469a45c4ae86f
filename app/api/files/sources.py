"""REST routes of models and data to choose from: places, and a page of one place at a time."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import Field
from starlette.responses import Response

from app.api.http.inputs import MAX_OFFSET, Body, Database, Text
from app.api.http.replies import Json
from app.sources import offers, uploads
from app.sources.folders import Look, listed
from app.sources.roots import SourceKind, SourceOptions
from opd.errors import ErrorKind, UserError

router = APIRouter(prefix="/api/v1", tags=["files"])


class PlaceParameters(Body):
    """`search` looks into names, ignoring case."""

    search: Annotated[Text, Field(max_length=500)] = ""
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class FolderParameters(PlaceParameters):
    """`path` below the root, with slashes."""

    path: Annotated[Text, Field(max_length=4000)] = ""


@router.get("/sources/{kind}")
def list_places(request: Request, kind: SourceKind) -> Response:
    """The roots of this kind by number, and the largest upload in bytes (0: none is taken)."""
    options: SourceOptions = request.app.state.sources
    roots = [{"number": n, "path": str(path)} for n, path in enumerate(options.roots(kind))]
    return Json({"roots": roots, "upload_bytes": options.upload_bytes if kind == "data" else 0})


@router.get("/sources/{kind}/{place}")
def list_place(
    request: Request,
    engine: Database,
    kind: SourceKind,
    place: Literal["bundled", "runs", "hub", "uploads"],
    look: Annotated[PlaceParameters, Query()],
) -> Response:
    """Bundled models or data, runs with checkpoints, uploads, or what is in the hub's cache.

    `value` of an item is what a configuration names; null where it cannot be used, and
    `model.problem` says why."""
    query = Look(kind, look.search, look.limit, look.offset)
    if (place, kind) in (("runs", "data"), ("uploads", "model")):
        raise UserError(f"{place} hold no {kind}", where=place, kind=ErrorKind.NOT_FOUND)
    if place == "runs":
        return Json(offers.runs(engine, query))
    if place == "uploads":
        return Json(uploads.listed(request.app.state.data_dir, query))
    return Json(offers.bundled(query) if place == "bundled" else offers.cached(query))


@router.get("/sources/{kind}/roots/{number}")
def list_folder(
    request: Request,
    kind: SourceKind,
    number: Annotated[int, Path(ge=0, le=1000)],
    look: Annotated[FolderParameters, Query()],
) -> Response:
    """A folder below a root: folders first, then files of this kind. Hidden ones are not listed;
    `left_out` counts what leads outside. `here.value` names the folder itself where it holds data
    or a model."""
    roots = request.app.state.sources.roots(kind)
    if number >= len(roots):
        raise UserError(
            f"there is no such root; name one with opd serve --{kind}-root DIR",
            where=str(number),
            kind=ErrorKind.NOT_FOUND,
        )
    query = Look(kind, look.search, look.limit, look.offset)
    return Json(listed(roots[number], look.path, query))
