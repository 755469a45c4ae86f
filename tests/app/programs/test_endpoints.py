"""Gradio's endpoints, asked by gradio_client over the loopback."""

import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from sqlalchemy import Engine, select

from app.worker import job, process
from opd.interchange.jsonl import rollouts_of
from storage.data_dir import DataDir
from storage.engine import read
from storage.queue import requests
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_runs
from storage.schema import metadata
from tests.support.api_client import Api, stored_run, train
from tests.support.browser_server import TOKEN, VIEW_TOKEN, loopback_server
from tests.support.databases.matrix import new_database
from tests.support.network.hostile_values import HOSTILE, fault_of, hostile_calls
from tests.support.stored_runs import me
from tests.support.tiny_models import save_pair

FULL = os.environ.get("OPD_FULL") == "1"
NAMES = {
    *("list_runs", "get_run", "start_run", "stop_run", "resume_run", "run_metrics"),
    *("list_rollouts", "rollout_tokens", "worst_tokens", "what_if", "doctor", "answer", "report"),
}
YAML = """
student: {model: STUDENT}
teacher: TEACHER
prompts: PROMPTS
device: cpu
threads: 1
sampling: {prompts_per_step: 2, group_size: 2, max_new_tokens: 6}
evaluation: {prompts: 2, keep: 1}
"""


class Endpoints:
    """A server over a data directory, a client of its endpoints, and its REST routes."""

    def __init__(self, address: str, engine: Engine, folder: Path) -> None:
        self.address, self.engine, self.folder = address, engine, folder
        self.client = client_of(address)
        self.api = Api(engine, folder)
        self.run_id = stored_run(engine)
        self.rollout_id: str = read_rollouts(engine, self.run_id)["items"][0]["id"]

    def __call__(self, name: str, /, **parameters: Any) -> Any:
        return self.client.predict(api_name=f"/{name}", **parameters)

    def refusal(self, name: str, /, **parameters: Any) -> str:
        with pytest.raises(AppError) as refused:
            self(name, **parameters)
        return str(refused.value)


def client_of(address: str, token: str = TOKEN) -> Client:
    headers = {"Authorization": f"Bearer {token}"}
    return Client(address, headers=headers, verbose=False, analytics_enabled=False)


@pytest.fixture(scope="module")
def endpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoints]:
    folder = tmp_path_factory.mktemp("endpoints")
    engine = new_database(folder)
    with loopback_server(engine, folder) as address:
        made = Endpoints(address, engine, folder)
        yield made
        made.client.close()
    engine.dispose()


def test_a_run_is_launched_and_its_tokens_are_read(endpoints: Endpoints, tmp_path: Path) -> None:
    yaml = YAML
    root = save_pair(tmp_path)
    for word, name in (
        ("STUDENT", "student"),
        ("TEACHER", "teacher"),
        ("PROMPTS", "prompts.jsonl"),
    ):
        yaml = yaml.replace(word, str(root / name))
    run_id = endpoints("start_run", yaml=yaml, changes=["steps=1"], name="by a client", tags=["a"])[
        "id"
    ]
    queued = endpoints("get_run", run=run_id)
    assert (queued["status"], queued["name"], queued["tags"]) == ("queued", "by a client", ["a"])

    claimed = job.claim(endpoints.engine, DataDir(endpoints.folder), run_id, "cpu")
    assert claimed is not None
    os.environ.pop(process.MARK)
    job.run(claimed)

    ended = endpoints("get_run", run=run_id)
    assert ended["status"] == "finished"
    assert [Path(c["folder"]).name for c in ended["checkpoints"]] == ["step-000001"]
    metrics = endpoints("run_metrics", run=run_id)
    assert metrics["columns"]["step"] == [1] and metrics["columns"]["reverse_kl"][0] > 0
    assert {e["step"] for e in metrics["evaluations"]} == {0, 1}
    rollouts = endpoints("list_rollouts", run=run_id, kind="train")
    assert rollouts["total"] == 4
    record = endpoints("rollout_tokens", rollout=rollouts["items"][0]["id"])
    assert len(record["student_logprobs"]) == len(record["completion_token_ids"]) > 0
    [read] = rollouts_of([(1, record)], "answer")
    assert read.record is not None and read.record.teacher_logprobs is not None


def test_what_is_told_is_what_rest_tells(endpoints: Endpoints) -> None:
    run_id, rollout_id = endpoints.run_id, endpoints.rollout_id
    runs = endpoints("list_runs", search="with tokens")
    assert runs == endpoints.api.get("/runs", search="with tokens") and runs["total"] == 1
    assert endpoints("worst_tokens", run=run_id, step=2, limit=3) == endpoints.api.get(
        f"/runs/{run_id}/hot-tokens", step=2, limit=3
    )
    assert endpoints("rollout_tokens", rollout=rollout_id) == endpoints.api.get(
        f"/rollouts/{rollout_id}/record"
    )
    assert 'data-block="report"' in endpoints("report", name=run_id, rollouts=1)
    assert f'data-block="{rollout_id}/tokens"' in endpoints("report", name=rollout_id)


def test_runs_are_stopped_and_resumed(endpoints: Endpoints) -> None:
    run_id = endpoints("start_run", recipe="demo", changes=["steps=2"], request_key="once")["id"]
    assert endpoints("start_run", recipe="demo", request_key="once")["id"] == run_id
    assert endpoints("stop_run", run=run_id)["status"] == "cancelled"
    assert endpoints("resume_run", run=run_id, accept_changes=True)["status"] == "queued"
    assert endpoints("stop_run", run=run_id, mode="discard")["status"] == "cancelled"


def answering(engine: Engine, answer: dict[str, Any] | None) -> threading.Thread:
    """What the model process would do with the next request; None: it fails."""

    def work() -> None:
        while (claimed := requests.claim(engine, me())) is None:
            pass
        if answer is None:
            requests.fail(engine, claimed["id"], "no such model")
        else:
            requests.finish(engine, claimed["id"], answer)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_the_model_process_is_asked_and_awaited(endpoints: Endpoints) -> None:
    rollout_id = endpoints.rollout_id
    later = endpoints("doctor", recipe="demo", wait=0)
    assert (later["state"], later["ok"]) == ("queued", None)
    answering(endpoints.engine, {"ok": True, "findings": [], "memory": None}).join()
    assert endpoints("answer", id=later["id"])["answer"]["ok"] is True
    refusal = endpoints.refusal("what_if", rollout=rollout_id, position=0, text=" 7")
    assert (
        refusal
        == 'checkpoint: the run has no checkpoint yet; "start" uses the models it started from'
    )
    worker = answering(endpoints.engine, {"branches": ["roll-b"]})
    answered = endpoints("what_if", rollout=rollout_id, position=0, text=" 7", checkpoint="start")
    worker.join()
    assert (answered["state"], answered["answer"]) == ("done", {"branches": ["roll-b"]})
    worker = answering(endpoints.engine, None)
    assert endpoints.refusal("doctor", recipe="demo") == "no such model"
    worker.join()


@pytest.mark.parametrize(
    ("name", "given", "route", "body"),
    [
        ("list_runs", {"limit": 5000}, "/runs?limit=5000", None),
        ("list_runs", {"status": "gone"}, "/runs?status=gone", None),
        ("get_run", {"run": "run-none"}, "/runs/run-none", None),
        ("get_run", {"run": "<b>"}, "/runs/%3Cb%3E", None),
        ("get_run", {"run": "run-a/../../health"}, "/runs/run-a/x/health", None),
        ("list_rollouts", {"run": "RUN", "sort": "evil"}, "/runs/RUN/rollouts?sort=evil", None),
        ("rollout_tokens", {"rollout": "roll-none"}, "/rollouts/roll-none/record", None),
        ("report", {"name": "RUN", "rollouts": 0}, "/runs/RUN/report?rollouts=0", None),
        ("start_run", {}, "/runs", {}),
        ("start_run", {"recipe": "nope"}, "/runs", {"recipe": "nope"}),
        ("start_run", {"yaml": "steps: ["}, "/runs", {"yaml": "steps: ["}),
        (
            "start_run",
            {"recipe": "demo", "changes": ["steps=-1", "sampling.top_q=2"]},
            "/runs",
            {"recipe": "demo", "set": ["steps=-1", "sampling.top_q=2"]},
        ),
        ("start_run", {"recipe": "demo", "name": 7}, "/runs", {"recipe": "demo", "name": 7}),
        ("stop_run", {"run": "RUN", "mode": "kill"}, "/runs/RUN/cancel", {"mode": "kill"}),
        ("resume_run", {"run": "RUN"}, "/runs/RUN/resume", {}),
        ("doctor", {"recipe": "nope"}, "/doctor", {"recipe": "nope"}),
    ],
)
def test_wrong_input_is_refused_in_the_words_of_rest(
    endpoints: Endpoints, name: str, given: dict[str, Any], route: str, body: dict[str, Any] | None
) -> None:
    before = read_runs(endpoints.engine)["total"]
    given = {k: endpoints.run_id if v == "RUN" else v for k, v in given.items()}
    refusal = endpoints.refusal(name, **given)
    reply = endpoints.api(
        "GET" if body is None else "POST", route.replace("RUN", endpoints.run_id), body
    )
    assert reply.status_code >= 400
    refused = reply.json()
    single = {"field": refused.get("where", ""), "message": refused.get("error", "")}
    problems = refused.get("problems", [single])
    for problem in problems:
        assert problem["message"] in refusal and problem["field"] in refusal
    assert read_runs(endpoints.engine)["total"] == before


def test_what_rest_would_not_refuse_is_refused_by_field(endpoints: Endpoints) -> None:
    for name, given, text in (
        ("doctor", {"recipe": "demo", "wait": -1}, "wait: must be 0 to 3600 seconds (got -1)"),
        (
            "get_run",
            {"run": endpoints.run_id, "wait": "5"},
            "wait: must be 0 to 3600 seconds (got '5')",
        ),
        (
            "list_runs",
            {"search": "x" * 2001},
            "search: must have at most 2000 characters (got 2001)",
        ),
        (
            "report",
            {"name": endpoints.run_id, "rollouts": "x" * 100_000},
            "rollouts: must have at most 2000 characters (got 100000)",
        ),
        ("get_run", {"run": "x" * 2001}, "run: must have at most 2000 characters (got 2001)"),
        ("start_run", {"recipe": "demo", "yaml": "steps: 2"}, "give recipe or yaml, not both"),
    ):
        assert endpoints.refusal(name, **given) == text


def test_a_run_is_awaited(endpoints: Endpoints) -> None:
    run_id = endpoints("start_run", recipe="demo", changes=["steps=2"])["id"]
    assert endpoints("get_run", run=run_id, wait=0.1)["status"] == "queued"
    worker = threading.Thread(target=train, args=(endpoints.engine, run_id))
    worker.start()
    assert endpoints("get_run", run=run_id, wait=60)["status"] == "finished"
    worker.join()


def test_every_endpoint_says_what_it_takes(endpoints: Endpoints) -> None:
    described = endpoints.client.view_api(return_format="dict")["named_endpoints"]  # type: ignore[index]
    assert {name.removeprefix("/") for name in described} == NAMES
    for name, endpoint in described.items():
        assert endpoint["description"], name
        for parameter in endpoint["parameters"]:
            assert parameter["python_type"]["type"], (name, parameter)
            assert parameter["python_type"]["description"], (name, parameter)
    start = {p["parameter_name"]: p for p in described["/start_run"]["parameters"]}
    assert (
        start["recipe"]["parameter_has_default"]
        and "list[str]" in start["changes"]["python_type"]["type"]
    )


@pytest.mark.parametrize(
    ("token", "status"), [("", 403), ("wrong", 401), (VIEW_TOKEN, 403), (TOKEN, 200)]
)
def test_without_the_token_every_endpoint_refuses(
    endpoints: Endpoints, token: str, status: int
) -> None:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    before = read_runs(endpoints.engine)["total"]
    config = httpx.get(
        f"{endpoints.address}config", headers={"authorization": f"Bearer {TOKEN}"}
    ).json()
    numbers = {d["api_name"]: d["id"] for d in config["dependencies"]}
    assert numbers.keys() == NAMES
    for name in NAMES:
        joined = {"fn_index": numbers[name], "data": [], "session_hash": "s"}
        for path, body in (("queue/join", joined), (f"call/{name}", {"data": []})):
            reply = httpx.post(f"{endpoints.address}gradio_api/{path}", headers=headers, json=body)
            assert reply.status_code == status, (name, path, reply.text)
    assert read_runs(endpoints.engine)["total"] == before


def test_pages_do_not_carry_the_endpoints(endpoints: Endpoints) -> None:
    page = httpx.get(endpoints.address).text
    assert "worst_tokens" not in page
    assert "worst_tokens" in httpx.get(f"{endpoints.address}endpoints").text


def contents(engine: Engine) -> list[Any]:
    with read(engine) as connection:
        return [connection.execute(select(table)).all() for table in metadata.sorted_tables]


def test_hostile_values_are_refused_by_field_and_change_nothing(endpoints: Endpoints) -> None:
    """Every parameter of every endpoint; OPD_FULL=1 sends every value to each of them."""
    shown = endpoints.client.view_api(return_format="dict")["named_endpoints"]  # type: ignore[index]
    takes = {
        name.removeprefix("/"): [p["parameter_name"] for p in endpoint["parameters"]]
        for name, endpoint in shown.items()
    }
    calls = [*hostile_calls(takes, endpoints.run_id, endpoints.rollout_id)]
    assert len(calls) == sum(map(len, takes.values())) * len(HOSTILE) > 1200
    before = contents(endpoints.engine)
    sent = calls if FULL else calls[::11]
    assert {(n, p) for n, p, _ in sent} == {(n, p) for n, p, _ in calls}
    refused, unsent, answered, faults = 0, 0, 0, []
    for name, parameter, arguments in sent:
        value = arguments[parameter]
        try:
            endpoints(name, **arguments)
            answered += 1
        except AppError as error:
            refused += 1
            if fault := fault_of(parameter, value, str(error)):
                faults.append((name, parameter, repr(value)[:60], fault, str(error)[:200]))
        except ValueError:  # gradio_client itself knows that JSON has no NaN
            assert isinstance(value, float) and math.isnan(value)
            unsent += 1
    assert not faults, faults
    assert refused > 0.6 * len(sent) and refused + answered + unsent == len(sent)
    assert contents(endpoints.engine) == before
