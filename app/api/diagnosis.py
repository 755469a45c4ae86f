"""REST routes of a run's diagnosis."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api.http.inputs import Database, RunId
from app.api.http.replies import Json
from storage.diagnosis.diagnose import diagnose

router = APIRouter(prefix="/api/v1", tags=["diagnosis"])


@router.get("/runs/{run_id}/diagnosis")
def get_diagnosis(engine: Database, run_id: RunId) -> Response:
    """The run's findings with their evidence, and the checks that found nothing."""
    return Json(diagnose(engine, run_id))
