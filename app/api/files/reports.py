"""REST routes of reports: a run or a rollout as a file that opens without a server."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.api.http.inputs import Database, RolloutId, RunId
from app.report import MAX_ROLLOUTS, Report, report
from app.version import program_version

router = APIRouter(prefix="/api/v1", tags=["reports"])


@router.get("/runs/{run_id}/report", response_class=Response)
def run_report(
    engine: Database, run_id: RunId, rollouts: Annotated[int, Query(ge=1, le=MAX_ROLLOUTS)] = 20
) -> Response:
    """The run's report with its `rollouts` worst ones, as an HTML file to keep."""
    return _file(run_id, report(engine, run_id, rollouts=rollouts, version=program_version()))


@router.get("/rollouts/{rollout_id}/report", response_class=Response)
def rollout_report(engine: Database, rollout_id: RolloutId) -> Response:
    """One rollout's report, as an HTML file to keep."""
    return _file(rollout_id, report(engine, rollout_id, version=program_version()))


def _file(name: str, made: Report) -> Response:
    """Always a download: opened from here, its scripts would run with this page's rights."""
    headers = {
        "content-disposition": f'attachment; filename="{name}.html"',
        "cache-control": "no-store",
    }
    return Response(made.html, media_type="text/html", headers=headers)
