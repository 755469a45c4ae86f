"""REST routes of rollouts of the same prompt."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api.inputs import Database, Limit, RolloutId
from app.api.replies import Json
from storage import queries

router = APIRouter(prefix="/api/v1", tags=["related"])


@router.get("/rollouts/{rollout_id}/related")
def list_related(engine: Database, rollout_id: RolloutId, limit: Limit = 200) -> Response:
    """Other rollouts of the same prompt: of this run by step, and under `others` of other runs."""
    return Json(queries.related(engine, rollout_id, limit=limit))
