"""REST routes of the loss lab: stored rollouts under another objective, mask, clip or prefix."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from app.api.http.inputs import MAX_OFFSET, Database, RolloutId, RunId
from app.api.http.replies import Json
from opd.errors import UserError
from opd.loss import counterfactual
from storage.insights.lab import lab_rollout, lab_run, lab_token

router = APIRouter(prefix="/api/v1", tags=["lab"])
Settings = Annotated[counterfactual.LabSettings, Query()]


class RunSettings(counterfactual.LabSettings):
    """Settings, and the range of steps."""

    first: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0
    last: Annotated[int | None, Query(ge=0, le=MAX_OFFSET)] = None


@router.get("/rollouts/{rollout_id}/lab")
def get_lab(engine: Database, rollout_id: RolloutId, settings: Settings) -> Response:
    """Per-token loss under these settings, exact or as two bounds, and the sum."""
    return Json(lab_rollout(engine, rollout_id, settings))


@router.get("/rollouts/{rollout_id}/lab/{position}")
def get_lab_token(
    engine: Database,
    rollout_id: RolloutId,
    position: Annotated[int, Path(ge=0, le=MAX_OFFSET)],
    settings: Settings,
) -> Response:
    """One token under every objective."""
    return Json(lab_token(engine, rollout_id, position, settings))


@router.get("/runs/{run_id}/lab")
def get_run_lab(
    engine: Database, run_id: RunId, settings: Annotated[RunSettings, Query()]
) -> Response:
    """The loss of each step under these settings, over its stored training rollouts."""
    if settings.last is not None and settings.last < settings.first:
        raise UserError(
            f"must be at least first, {settings.first} (got {settings.last})", where="last"
        )
    return Json(lab_run(engine, run_id, settings, first=settings.first, last=settings.last))
