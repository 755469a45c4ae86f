"""REST routes of experiments: list, start, cancel, resume, results."""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field
from starlette.responses import Response

from app.api.http.inputs import Body, Database, Limit, Offset, Text, User
from app.api.http.replies import Json
from opd.errors import ErrorKind, UserError
from opd.experiments.definition import MAX_SEEDS, Experiment, experiments, merged
from opd.interchange.spreadsheet import csv_line
from storage.comparison import experiment_results
from storage.queue import experiments as store

router = APIRouter(prefix="/api/v1", tags=["experiments"])
ExperimentId = Annotated[str, Path(pattern=r"^exp-[a-z0-9]{1,28}$")]
COSTS = ("steps_to_target", "tokens_to_target", "flops_to_target", "seconds_to_target")
TEXTS = ("title", "description", "question", "claim", "published", "shows", "limits")
OURS = ("bundled/", "arm:")


class StartExperiment(Body):
    """`name` as in the list of definitions, never a file. `seeds` null: as the definition says."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    quick: bool = False
    seeds: Annotated[int, Field(ge=1, le=MAX_SEEDS)] | None = None
    request_key: Annotated[Text, Field(min_length=1, max_length=100)] | None = None


@cache
def definitions() -> dict[str, Experiment]:
    """What comes with the product, by name: files of the package, which stay as they are."""
    return {item.name: item for item in experiments()}


@router.get("/experiment-definitions")
def list_definitions() -> Response:
    """The available experiments."""
    items = [_offered(item) for item in definitions().values()]
    return Json({"items": items, "total": len(items)})


@router.get("/experiments")
def list_experiments(engine: Database, limit: Limit = 100, offset: Offset = 0) -> Response:
    """Past and running experiments, newest first."""
    return Json(experiment_results.experiments(engine, limit=limit, offset=offset))


@router.post("/experiments", status_code=201)
def start_experiment(engine: Database, body: StartExperiment, user: User) -> Response:
    """Starts an experiment; the same `request_key` always gives the same one."""
    offered = definitions()
    if body.name not in offered:
        message = f"no such experiment: {body.name}; available: {', '.join(offered) or 'none'}"
        raise UserError(message, where="name", kind=ErrorKind.NOT_FOUND)
    started = store.create_experiment(
        engine,
        offered[body.name],
        quick=body.quick,
        seeds=body.seeds,
        request_key=body.request_key,
        started_by=user,
    )
    return Json({"id": started}, 201)


@router.get("/experiments/{experiment_id}")
def get_experiment(engine: Database, experiment_id: ExperimentId) -> Response:
    """Status, arms with their runs, and results so far."""
    return Json(experiment_results.experiment(engine, experiment_id))


@router.get("/experiments/{experiment_id}/results.csv")
def experiment_csv(engine: Database, experiment_id: ExperimentId) -> Response:
    """The table of results as CSV, one line per arm."""
    lines = "".join(_lines(experiment_results.experiment(engine, experiment_id)))
    headers = {"content-disposition": f'attachment; filename="{experiment_id}.csv"'}
    return Response(lines, media_type="text/csv", headers=headers)


@router.post("/experiments/{experiment_id}/cancel")
def cancel_experiment(engine: Database, experiment_id: ExperimentId, user: User) -> Response:
    """Stops the experiment and its queued and running runs; it can be resumed."""
    status = store.cancel_experiment(engine, experiment_id, user)
    return Json({"id": experiment_id, "status": status})


@router.post("/experiments/{experiment_id}/resume")
def resume_experiment(engine: Database, experiment_id: ExperimentId, user: User) -> Response:
    """Resumes a stopped experiment; finished runs are kept."""
    status = store.resume_experiment(engine, experiment_id, by=user)
    return Json({"id": experiment_id, "status": status})


def _offered(item: Experiment) -> dict[str, Any]:
    return {
        **{name: getattr(item, name) for name in ("name", *TEXTS, "seeds")},
        "quick_seeds": item.quick.seeds,
        "arms": [{"name": name, "label": arm.label} for name, arm in item.arms.items()],
        "minutes": {kind: item.minutes.get(kind) for kind in ("full", "quick")},
        "bundled": all(model.startswith(OURS) for model in _models(item)),
    }


def _models(item: Experiment) -> Iterator[str]:
    """The models that the arms name; the others are the bundled pair."""
    for arm in item.arms.values():
        config = merged(item.common, arm.config)
        for role in ("student", "teacher"):
            settings = config.get(role)
            model = settings.get("model") if isinstance(settings, dict) else settings
            if isinstance(model, str):
                yield model


def _lines(results: dict[str, Any]) -> Iterator[str]:
    facts = ("arm", "label", "n", "reached", "score", "low", "high", *COSTS)
    metrics = [column["metric"] for column in results["columns"]]
    bounds = ("value", "low", "high")
    heads = (f"{metric} {bound}".removesuffix(" value") for metric in metrics for bound in bounds)
    yield csv_line([*facts, *heads])
    for row in results["table"]:
        cells = [row["cells"].get(metric) or {} for metric in metrics]
        figures = (cell.get(bound) for cell in cells for bound in bounds)
        yield csv_line([*(row[name] for name in facts), *figures])
