"""The routes of what-if and chat: bounds, who may ask, and what is queued."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy import Engine

from app.security import SecurityLayer
from app.server import ServerOptions, policy, rest_app
from app.worker.models.request import ModelCache
from opd.config.run import parse
from opd.types import CheckpointEvent
from storage import locks
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs, requests
from storage.queue.model_state import read_model_state
from storage.schema import checkpoint, run
from storage.write.records import RunWriter
from tests.support.api_client import TOKENS, Api, first_rollout, stored_run
from tests.support.stored_runs import me


def with_checkpoints(engine: Engine, run_id: str, *steps: int) -> None:
    with begin(engine) as connection:
        for step in steps:
            values = {"path": f"/{step}", "manifest": {}, "created_at": 1.0}
            connection.execute(checkpoint.insert().values(run_id=run_id, step=step, **values))


def asked_about(api: Api, engine: Engine) -> dict[str, Any]:
    run_id = stored_run(engine)
    with_checkpoints(engine, run_id, 1, 2)
    return {"rollout": first_rollout(api, run_id), "position": 2, "token": 3}


def payload_of(engine: Engine, name: str) -> dict[str, Any]:
    payload: dict[str, Any] = requests.read_whole_request(engine, name)["payload"]
    return payload


def chat_of(text: str = "hello") -> dict[str, Any]:
    return {"conversations": {"student": [{"role": "user", "content": text}]}}


def test_a_what_if_is_queued_with_the_checkpoint_of_now(api: Api, engine: Engine) -> None:
    body = asked_about(api, engine)
    for chosen, step in (("newest", 2), ("start", None), (1, 1)):
        reply = api("POST", "/what-if", body | {"checkpoint": chosen})
        assert reply.status_code == 201, reply.text
        payload = payload_of(engine, reply.json()["id"])
        assert payload["checkpoint"] == step and payload["run"].startswith("run-")
        assert payload["authors"] == ["student", "teacher"]
    request = api.get(f"/questions/{reply.json()['id']}")
    assert (request["state"], request["kind"], request["answer"]) == ("queued", "what-if", None)
    ended = api("DELETE", f"/questions/{reply.json()['id']}").json()
    assert (ended["state"], ended["error_kind"]) == ("failed", "cancelled")


@pytest.mark.parametrize(
    ("change", "field", "limit"),
    [
        ({"device": "cuda"}, "device", "'auto' or 'cpu'"),
        ({"position": TOKENS}, "position", str(TOKENS - 1)),
        ({"position": -1}, "position", "0"),
        ({"token": -1}, "token", "0"),
        ({"samples": 9}, "samples", "8"),
        ({"samples": 0}, "samples", "1"),
        ({"max_new_tokens": 2049}, "max_new_tokens", "2048"),
        ({"temperature": 10.1}, "temperature", "10"),
        ({"temperature": -0.1}, "temperature", "0"),
        ({"temperature": "NaN"}, "temperature", "finite"),
        ({"token": None, "text": "x" * 20_001}, "text", "20000"),
        ({"token": None, "text": ""}, "text", "1"),
        ({"token": None, "text": "\0"}, "text", "NUL"),
        ({"text": "both"}, "", "either token or text"),
        ({"token": None}, "", "either token or text"),
        ({"authors": []}, "authors", "1"),
        ({"authors": ["judge"]}, "authors", "student"),
        ({"checkpoint": 7}, "checkpoint", "1, 2"),
        ({"seed": 2**31}, "seed", "2147483647"),
        ({"unknown": 1}, "unknown", "not permitted"),
    ],
)
def test_what_is_out_of_bounds_is_refused_with_field_and_limit(
    api: Api, engine: Engine, change: dict[str, Any], field: str, limit: str
) -> None:
    reply = api("POST", "/what-if", asked_about(api, engine) | change)
    assert reply.status_code == 422, reply.text
    refusal = reply.json()
    problems = refusal.get("problems") or [{"field": refusal["where"], "message": refusal["error"]}]
    assert any(field in p["field"] and limit in p["message"] for p in problems), refusal
    assert requests.waiting(engine) == []


def test_a_run_without_checkpoints_says_what_can_be_done(api: Api, engine: Engine) -> None:
    body = {"rollout": first_rollout(api, stored_run(engine)), "position": 0, "token": 1}
    reply = api("POST", "/what-if", body)
    assert reply.status_code == 422
    assert '"start" uses the models it started from' in reply.json()["error"]
    assert api("POST", "/what-if", body | {"checkpoint": "start"}).status_code == 201


def test_what_is_not_there_is_not_found(api: Api, engine: Engine) -> None:
    body = {"rollout": "roll-none", "position": 0, "token": 1}
    assert api("POST", "/what-if", body).status_code == 404
    assert api("POST", "/chat", chat_of() | {"run": "run-none"}).status_code == 404
    for method, path in (
        ("GET", "/questions/ask-none"),
        ("DELETE", "/questions/ask-none"),
        ("POST", "/chat/ask-none/keep"),
        ("GET", "/rollouts/roll-none/branches"),
    ):
        body = {} if method == "POST" else None
        assert api(method, path, body).status_code == 404, path


def test_a_chat_is_about_a_run_or_a_recipe(api: Api, engine: Engine) -> None:
    name = api("POST", "/chat", chat_of()).json()["id"]
    payload = payload_of(engine, name)
    assert (payload["run"], payload["recipe"], payload["session"]) == (None, "demo", None)
    reply = api("POST", "/chat", chat_of() | {"recipe": "nothing"})
    assert reply.status_code == 422 and "recipes: " in reply.json()["error"]
    run_id = stored_run(engine)
    with_checkpoints(engine, run_id, 5)
    name = api("POST", "/chat", chat_of() | {"run": run_id}).json()["id"]
    assert (payload_of(engine, name)["run"], payload_of(engine, name)["checkpoint"]) == (run_id, 5)


@pytest.mark.parametrize(
    ("conversations", "field", "words"),
    [
        ({}, "", "at least 1"),
        ({"student": []}, ".student", "at least 1"),
        ({"judge": [{"role": "user", "content": "x"}]}, ".judge", "student"),
        ({"student": [{"role": "assistant", "content": "x"}]}, ".student", "must be the user's"),
        ({"student": [{"role": "user", "content": ""}]}, ".student", "must be the user's"),
        ({"student": [{"role": "user", "content": "x" * 20_001}]}, ".student", "20000"),
        ({"teacher": [{"role": "user", "content": "x" * 11_000}] * 2}, ".teacher", "at most 20000"),
        ({"student": [{"role": "user", "content": "x"}] * 101}, ".student", "100"),
    ],
)
def test_conversations_are_bounded(api: Api, conversations: Any, field: str, words: str) -> None:
    reply = api("POST", "/chat", {"conversations": conversations})
    assert reply.status_code == 422 and words in reply.text, reply.text
    assert reply.json()["problems"][0]["field"].startswith(f"conversations{field}"), reply.text


@pytest.mark.parametrize("session", ["", "a b", "x" * 65, 7])
def test_a_session_has_a_plain_name(api: Api, engine: Engine, session: Any) -> None:
    reply = api("POST", "/chat", chat_of() | {"session": session})
    assert reply.status_code == 422 and reply.json()["problems"][0]["field"] == "session"
    name = api("POST", "/chat", chat_of() | {"session": "0f-9_A"}).json()["id"]
    assert payload_of(engine, name)["session"] == "0f-9_A"


def test_only_an_answered_chat_of_a_run_is_kept(api: Api, engine: Engine) -> None:
    name = api("POST", "/chat", chat_of()).json()["id"]
    assert "finished chat" in api("POST", f"/chat/{name}/keep", {}).json()["error"]
    requests.claim(engine, me())
    requests.finish(engine, name, {"replies": [{"ids": [1]}]})
    assert "choose a run" in api("POST", f"/chat/{name}/keep", {}).json()["error"]
    assert api("POST", f"/chat/{name}/keep", {"reply": 1}).status_code == 422
    run_id = stored_run(engine)
    body = chat_of() | {"run": run_id, "checkpoint": "start"}
    name = api("POST", "/chat", body).json()["id"]
    requests.claim(engine, me())
    requests.finish(engine, name, {"replies": [{"ids": [1, 2]}]})
    kept = api("POST", f"/chat/{name}/keep", {"reply": 0})
    assert kept.status_code == 201
    payload = payload_of(engine, kept.json()["id"])
    assert payload["reply"] == {"ids": [1, 2]} and payload["run"] == run_id


def test_viewers_may_look_and_not_ask(engine: Engine, tmp_path: Path) -> None:
    options = ServerOptions(data_dir=DataDir(tmp_path), token="full-token", view_token="view-token")
    layer = SecurityLayer(rest_app(engine, options), policy(options))

    async def send(method: str, path: str, token: str) -> int:
        base = f"http://127.0.0.1:{options.port}"
        async with AsyncClient(transport=ASGITransport(layer), base_url=base) as client:
            headers = {"authorization": f"Bearer {token}"}
            body = chat_of() if method == "POST" else None
            reply = await client.request(method, f"/api/v1{path}", json=body, headers=headers)
            return reply.status_code

    def status(method: str, path: str, token: str) -> int:
        return asyncio.run(send(method, path, token))

    assert status("POST", "/chat", "full-token") == 201
    (name,) = requests.waiting(engine)
    assert status("POST", "/chat", "view-token") == 403
    assert status("DELETE", f"/questions/{name}", "view-token") == 403
    assert status("GET", "/models/state", "view-token") == 200
    assert requests.waiting(engine) == [name]


def test_an_import_names_no_models(api: Api, engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}))
    attempt = jobs.claim(engine, run_id, "cpu", me())
    assert attempt is not None
    RunWriter(engine, run_id, attempt).checkpoint(CheckpointEvent(1, "/x", {}))
    with begin(engine) as connection:
        connection.execute(run.update().where(run.c.id == run_id).values(source="import"))
    reply = api("POST", "/chat", chat_of() | {"run": run_id})
    assert reply.status_code == 422 and "imported run names no models" in reply.json()["error"]


def test_the_models_sleep_where_no_process_runs(api: Api) -> None:
    assert api.get("/models/state") == {"state": "asleep", "models": None}


def test_models_stay_between_questions_one_set_at_a_time(tmp_path: Path) -> None:
    class Models:
        closed = False

        def close(self) -> None:
            self.closed = True

    held, made = ModelCache(DataDir(tmp_path)), []

    def load() -> Models:
        assert all(m.closed for m in made), "the earlier ones go first"
        made.append(Models())
        return made[-1]

    first = held.get("a", {"step": 1}, load)
    assert held.get("a", {"step": 1}, load) is first and len(made) == 1
    held.get("b", {"step": 2}, load)
    assert first.closed and len(made) == 2
    lock = locks.take(DataDir(tmp_path).model_lock)
    assert read_model_state(DataDir(tmp_path)) == {"state": "ready", "models": {"step": 2}}
    held.release()
    assert read_model_state(DataDir(tmp_path))["state"] == "awake"
    assert lock is not None
    lock.close()
    assert read_model_state(DataDir(tmp_path))["state"] == "asleep"


def test_a_preview_of_prompts_is_queued_for_a_set_that_there_is(api: Api, engine: Engine) -> None:
    suites = {"evaluation": {"suites": {"mine": "bundled"}}}
    for body, name in (
        ({"recipe": "demo"}, "train"),
        ({"config": suites, "prompts": "evaluation.suites.mine"}, "evaluation.suites.mine"),
    ):
        reply = api("POST", "/prompt-preview", body)
        assert reply.status_code == 201, reply.text
        claimed = requests.claim(engine, me())
        assert claimed is not None and claimed["kind"] == "prompts"
        assert (claimed["payload"]["prompts"], claimed["payload"]["count"]) == (name, 3)
        parse(claimed["payload"]["config"])


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"config": {}, "prompts": "evaluation.suites.mine"}, "prompts"),
        ({"config": {}, "prompts": "a" * 300}, "prompts"),
        ({"config": {}, "count": 21}, "count"),
        ({"config": {"prompts": {"source": "/no/such.jsonl"}}}, "prompts.source"),
        ({}, ""),
    ],
)
def test_a_preview_that_cannot_be_is_refused_at_once(api: Api, body: Any, where: str) -> None:
    reply = api("POST", "/prompt-preview", body)
    assert reply.status_code == 422
    fields = [p["field"] for p in reply.json().get("problems") or []] or [reply.json()["where"]]
    assert where in fields
