"""REST routes of rollouts of the same prompt."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api.http.inputs import Database, Limit, RolloutId
from app.api.http.replies import Json
from storage.read.related import read_near, read_related

router = APIRouter(prefix="/api/v1", tags=["related"])


@router.get("/rollouts/{rollout_id}/related")
def list_related(
    engine: Database, rollout_id: RolloutId, limit: Limit = 200, near: bool = False
) -> Response:
    """Other rollouts of the same prompt: of this run by step; those of other runs in `others`.

    `near`: this run's only, those of the same step first, then of the nearest ones.
    """
    return Json((read_near if near else read_related)(engine, rollout_id, limit=limit))
