"""REST routes that compare runs."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, BaseModel, Field
from starlette.responses import Response

from app.api.http.inputs import RUN_ID, Database, Offset, Text
from app.api.http.replies import Json
from opd.interchange.spreadsheet import csv_line
from storage.comparison import curves
from storage.comparison.compare import ComparisonQuery, comparison, shared_prompts
from storage.read.disk import disk_use

router = APIRouter(prefix="/api/v1", tags=["comparing"])
DISK = ("checkpoints", "other", "files")


def _ids(text: str) -> str:
    if not all(re.fullmatch(RUN_ID, part) for part in text.split(",")):
        raise ValueError("must be run ids separated by commas, such as run-abc,run-def")
    return text


Runs = Annotated[str, Field(max_length=2_000), AfterValidator(_ids)]
Metric = Annotated[Text, Field(max_length=420)]


class ComparisonParameters(BaseModel):
    """Which curves to compare; run ids separated by commas."""

    runs: Runs
    x: curves.Axis = "step"
    metric: Metric = ComparisonQuery.metric
    second: Metric = ""
    target: Annotated[float | None, Field(allow_inf_nan=False)] = None
    direction: Literal["auto"] | curves.Direction = "auto"
    baseline: Annotated[str, Field(pattern=f"^({RUN_ID})?$")] = ""
    interpolate: bool = False
    smoothing: Annotated[float, Field(ge=0, le=0.999)] = 0.0
    band: curves.Band = "range"

    def question(self) -> ComparisonQuery:
        return ComparisonQuery(**{**self.model_dump(), "runs": self.runs.split(",")})


@router.get("/compare")
def compare(
    request: Request, engine: Database, parameters: Annotated[ComparisonParameters, Query()]
) -> Response:
    """Curves, cost to reach a threshold with ratios, differing settings, and groups of seeds."""
    return Json(_compared(request, engine, parameters.question()))


@router.get("/compare.csv")
def compare_csv(
    request: Request, engine: Database, parameters: Annotated[ComparisonParameters, Query()]
) -> Response:
    """The cost to reach the threshold as CSV, one line per run."""
    compared = _compared(request, engine, parameters.question())
    headers = {"content-disposition": 'attachment; filename="compare.csv"'}
    return Response("".join(_lines(compared)), media_type="text/csv", headers=headers)


@router.get("/compare/prompts")
def compare_prompts(
    engine: Database,
    runs: Annotated[Runs, Query()],
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Offset = 0,
) -> Response:
    """Prompts shared by all the runs, each with every run's newest rollout."""
    return Json(shared_prompts(engine, runs.split(","), limit=limit, offset=offset))


def _compared(request: Request, engine: Database, question: ComparisonQuery) -> dict[str, Any]:
    compared = comparison(engine, question)
    for run in compared["runs"]:
        run["disk"] = disk_use(request.app.state.data_dir.run(run["id"]))
    return compared


def _lines(compared: dict[str, Any]) -> Iterator[str]:
    reach = compared["reach"]
    yield csv_line(
        [
            *("id", "name", "status", "seed", "metric", "direction", "target", "interpolated"),
            *("best", "reached", *(f"{axis}_to_target" for axis in curves.AXES)),
            *("baseline", *(f"{axis}_ratio" for axis in curves.AXES)),
            *("steps", "tokens", "flops", "training_seconds", "record_bytes"),
            *(f"disk_{part}_bytes" for part in DISK),
        ]
    )
    for run, item in zip(compared["runs"], reach["items"], strict=True):
        costs = item["costs"] or {}
        yield csv_line(
            [
                *(run[name] for name in ("id", "name", "status", "seed")),
                *(reach[name] for name in ("metric", "direction", "target", "interpolated")),
                *(item["best"], item["reached"], *(costs.get(axis) for axis in curves.AXES)),
                *(reach["baseline"], *(item["ratio"][axis] for axis in curves.AXES)),
                *(run[name] for name in ("step", "tokens", "flops", "training_seconds", "bytes")),
                *(run["disk"][part] for part in DISK),
            ]
        )
