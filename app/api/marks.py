"""REST routes of marks: notes on rollouts and tokens, and the prompts that they pick out."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api.http.inputs import (
    Database,
    EditMark,
    IfMatch,
    Limit,
    MarkId,
    NewMark,
    Offset,
    RolloutId,
    RunId,
    seen_version,
)
from app.api.http.replies import Json
from storage.marks.edit import add_mark, edit_mark, remove_mark
from storage.marks.listing import read_mark, read_marks, read_rollout_marks
from storage.marks.prompts import marked_prompts

router = APIRouter(prefix="/api/v1", tags=["marks"])


@router.get("/runs/{run_id}/marks")
def list_marks(engine: Database, run_id: RunId, limit: Limit = 100, offset: Offset = 0) -> Response:
    """A page of the run's marks, each with its rollout and, of a token, the text around it.

    `prompts`: how many prompts `marked-prompts.jsonl` has, `remarks` on those that it lacks or has
    as text only, and the `settings` of a run on that file that grades as this one did.
    """
    page = read_marks(engine, run_id, limit=limit, offset=offset)
    prompts = marked_prompts(engine, run_id)
    about = {"remarks": prompts.remarks(), "settings": prompts.settings(_file_name(run_id))}
    return Json(page | {"prompts": {"count": len(prompts.rows), **about}})


@router.get("/runs/{run_id}/marked-prompts.jsonl", response_class=Response)
def get_marked_prompts(engine: Database, run_id: RunId) -> Response:
    """The prompts of the run's marked rollouts as JSON lines to train or to evaluate on.

    Refused where there are none; what is left out, the list of marks says.
    """
    headers = {
        "content-disposition": f'attachment; filename="{_file_name(run_id)}"',
        "cache-control": "no-store",
    }
    content = b"".join(marked_prompts(engine, run_id).lines())
    return Response(content, media_type="application/x-ndjson", headers=headers)


def _file_name(run_id: str) -> str:
    return f"{run_id}-marked-prompts.jsonl"


@router.get("/rollouts/{rollout_id}/marks")
def list_rollout_marks(engine: Database, rollout_id: RolloutId) -> Response:
    """The marks of a rollout: that on the whole first, then by position."""
    items = read_rollout_marks(engine, rollout_id)
    return Json({"items": items, "total": len(items)})


@router.post("/rollouts/{rollout_id}/marks", status_code=201)
def create_mark(engine: Database, rollout_id: RolloutId, body: NewMark) -> Response:
    """Marks a token or the rollout. Refused with 409 and `current` where there is a mark."""
    return Json(read_mark(engine, add_mark(engine, rollout_id, body.position, body.note)), 201)


@router.patch("/marks/{mark_id}")
def change_mark(
    engine: Database, mark_id: MarkId, body: EditMark, if_match: IfMatch = None
) -> Response:
    """Changes the note. With the header `If-Match: VERSION`, refused with 409 and `current` where
    somebody else has changed it since it had that version."""
    edit_mark(engine, mark_id, body.note, version=seen_version(if_match))
    return Json(read_mark(engine, mark_id))


@router.delete("/marks/{mark_id}")
def delete_mark(engine: Database, mark_id: MarkId, if_match: IfMatch = None) -> Response:
    """Removes the mark; `If-Match` as for a change."""
    remove_mark(engine, mark_id, version=seen_version(if_match))
    return Json({"id": mark_id})
