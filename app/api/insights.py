"""REST routes of aggregates over a run's tokens."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from app.api.http.inputs import MAX_OFFSET, Database, RunId
from app.api.http.replies import Json
from opd.types import Kind
from storage.insights.insights import InsightName, Thresholds, read_insight, read_insights_overview
from storage.insights.selection import Where

router = APIRouter(prefix="/api/v1", tags=["insights"])
Bound = Annotated[int | None, Field(ge=0, le=MAX_OFFSET)]
Threshold = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]


class InsightParameters(BaseModel):
    """Which rollouts; `entropy` and `heat` (nats) are where the quadrants meet."""

    kind: Kind | None = None
    min_step: Bound = None
    max_step: Bound = None
    entropy: Threshold = Thresholds.entropy
    heat: Threshold = Thresholds.heat


@router.get("/runs/{run_id}/insights")
def get_overview(engine: Database, run_id: RunId) -> Response:
    """Kinds and steps for which the run has tokens, and how many an aggregate reads at most."""
    return Json(read_insights_overview(engine, run_id))


@router.get("/runs/{run_id}/insights/{name}")
def get_insight(
    engine: Database,
    run_id: RunId,
    name: InsightName,
    parameters: Annotated[InsightParameters, Query()],
) -> Response:
    """An aggregate over the run's unmasked tokens. The bounds of a cell are parameters of
    hot-tokens, which lists the tokens of that cell."""
    where = Where(parameters.kind, parameters.min_step, parameters.max_step)
    thresholds = Thresholds(parameters.entropy, parameters.heat)
    return Json(read_insight(engine, run_id, name, where, thresholds))
