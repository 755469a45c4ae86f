"""The doctor's routes: a question is queued, and its answer is read while it grows."""

from typing import Any

import pytest
from sqlalchemy import Engine

from opd.config.run import parse
from storage.queue import requests
from tests.support.api_client import Api
from tests.support.stored_runs import me


def test_a_configuration_is_asked_about_and_answered(api: Api, engine: Engine) -> None:
    request = api("POST", "/doctor", {"recipe": "demo", "set": ["steps=3"], "models": False})
    assert request.status_code == 201
    name = request.json()["id"]
    answer = api.get(f"/doctor/{name}")
    assert (answer["state"], answer["findings"], answer["memory"]) == ("queued", [], None)
    claimed = requests.claim(engine, me())
    assert claimed is not None and claimed["kind"] == "doctor"
    assert claimed["payload"]["models"] is False
    assert parse(claimed["payload"]["config"]).steps == 3
    requests.progress(engine, name, phase="reading prompts", answer={"findings": [{"code": "a"}]})
    answer = api.get(f"/doctor/{name}")
    assert (answer["state"], answer["phase"]) == ("running", "reading prompts")
    assert answer["findings"] == [{"code": "a"}]
    requests.finish(engine, name, {"ok": True, "findings": [], "memory": {"device": 1}})
    answer = api.get(f"/doctor/{name}")
    assert (answer["state"], answer["ok"], answer["memory"]) == ("done", True, {"device": 1})


def test_models_are_loaded_unless_told_otherwise(api: Api, engine: Engine) -> None:
    api("POST", "/doctor", {"config": {}})
    claimed = requests.claim(engine, me())
    assert claimed is not None and claimed["payload"]["models"] is True


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"config": {"steps": 0}}, "steps"),
        ({"config": {"student": "/no/such/folder"}}, "student.model"),
        ({"config": {"sampling": {"group": 2}}}, "sampling.group"),
        ({"yaml": "a: [1", "models": True}, "configuration"),
        ({}, ""),
        ({"config": {}, "models": "perhaps"}, "models"),
    ],
)
def test_a_bad_configuration_is_named_by_field(api: Api, body: Any, field: str) -> None:
    response = api("POST", "/doctor", body)
    assert response.status_code == 422
    problems = response.json().get("problems") or [{"field": response.json()["where"]}]
    assert field in [p["field"] for p in problems]


def test_unknown_questions_and_a_full_queue(api: Api) -> None:
    assert api("GET", "/doctor/ask-abcdefgh1234").status_code == 404
    assert api("GET", "/doctor/run-abcdefgh").status_code == 422
    for _ in range(requests.MAX_WAITING):
        assert api("POST", "/doctor", {"config": {}}).status_code == 201
    refused = api("POST", "/doctor", {"config": {}})
    assert refused.status_code == 429 and refused.json()["kind"] == "busy"


def test_a_failure_is_told_with_its_cause(api: Api, engine: Engine) -> None:
    name = api("POST", "/doctor", {"config": {}}).json()["id"]
    requests.fail(engine, name, "killed by signal 9", kind="killed", hint="Lower it.")
    answer = api.get(f"/doctor/{name}")
    assert (answer["state"], answer["error_kind"]) == ("failed", "killed")
    assert (answer["error_text"], answer["hint"]) == ("killed by signal 9", "Lower it.")
