"""REST routes of the doctor: the model process checks a configuration."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from app.api.http.inputs import AskId, ConfigSource, Database
from app.api.http.replies import Json
from app.worker.owners.place import boot_id
from opd.config.paths import with_absolute_paths
from storage.queue import requests

router = APIRouter(prefix="/api/v1", tags=["doctor"])


class DoctorQuestion(ConfigSource):
    """`models` false: load no weights and use no network."""

    models: bool = True


@router.post("/doctor", status_code=201)
def ask_doctor(engine: Database, body: DoctorQuestion) -> Response:
    """Queues a check of a configuration and returns its id."""
    config = with_absolute_paths(body.validated())
    payload = {"config": config.model_dump(mode="json"), "models": body.models}
    return Json({"id": requests.enqueue(engine, "doctor", payload, boot_id())}, 201)


@router.get("/doctor/{ask_id}")
def doctor_answer(engine: Database, ask_id: AskId) -> Response:
    """State of a check (queued, running, done, failed) and its findings so far."""
    request = requests.read_request(engine, ask_id)
    answer: dict[str, Any] = request.pop("answer") or {}
    return Json(
        {
            **request,
            "ok": answer.get("ok"),
            "findings": answer.get("findings", []),
            "memory": answer.get("memory"),
        }
    )
