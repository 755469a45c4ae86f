"""REST routes of experiments: what is told, what is taken, what is refused."""

import asyncio
import csv
import io
from pathlib import Path
from typing import Any

import pytest
from httpx import ASGITransport, AsyncClient
from sqlalchemy import Engine

from app.api import experiments as routes
from app.security import SecurityLayer
from app.server import ServerOptions, policy, rest_app
from opd.experiments.definition import experiments
from opd.experiments.plan import Key
from storage.comparison import experiment_results
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.runs import read_run
from tests.flows.test_hostile_requests import COOKIE, SAME, TOKEN, VIEW
from tests.support.api_client import Api
from tests.support.stored_experiments import (
    COLUMNS,
    FAST,
    SHORT,
    SLOW,
    Script,
    definition,
    started,
)

VIEWING = SAME | {"cookie": f"opd_token_7860={VIEW}"}
FORMULA = "=1+1"


@pytest.fixture(autouse=True)
def bundled_definitions(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"one": definition("one"), "two": definition("two", quick={"seeds": 2})}
    monkeypatch.setattr(routes, "definitions", lambda: made)


def start(api: Api, **body: Any) -> str:
    answer = api("POST", "/experiments", {"name": "one"} | body)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def test_definitions_tell_what_can_be_run(api: Api) -> None:
    answer = api.get("/experiment-definitions")
    assert answer["total"] == 2
    first, second = answer["items"]
    assert (first["name"], first["seeds"], second["quick_seeds"]) == ("one", 3, 2)
    assert first["arms"] == [{"name": "rl", "label": "RL"}, {"name": "opd", "label": "OPD"}]
    for text in routes.TEXTS:
        assert first[text] == getattr(definition("one"), text)
    assert first["minutes"] == {"full": None, "quick": None}
    assert first["bundled"] is True


def test_a_definition_with_models_of_its_own_says_so(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = {"arms": {"a": {"label": "A", "config": {"student": {"model": "some/model"}}}}}
    made = definition(**theirs, pairs=[], minutes={"full": 30, "quick": 4})
    monkeypatch.setattr(routes, "definitions", lambda: {"x": made})
    [item] = api.get("/experiment-definitions")["items"]
    assert item["bundled"] is False
    assert item["minutes"] == {"full": 30, "quick": 4}


def test_what_comes_with_the_product_is_offered(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    items = api.get("/experiment-definitions")["items"]
    assert [item["name"] for item in items] == [item.name for item in experiments()]


def test_starting_takes_the_definitions_seeds_unless_others_are_asked_for(
    api: Api, engine: Engine
) -> None:
    full, quick, five = start(api), start(api, name="two", quick=True), start(api, seeds=5)
    items = {item["id"]: item for item in api.get("/experiments")["items"]}
    assert items == {item["id"]: item for item in experiment_results.experiments(engine)["items"]}
    facts = {name: (item["quick"], item["seeds"], item["status"]) for name, item in items.items()}
    assert facts == {
        full: (False, 3, "running"),
        quick: (True, 2, "running"),
        five: (False, 5, "running"),
    }


def test_one_request_key_is_one_experiment(api: Api) -> None:
    first = start(api, request_key="k")
    assert start(api, request_key="k") == first
    assert start(api, request_key="other") != first
    assert api.get("/experiments")["total"] == 2


REFUSED = {
    "no name": ({"name": None}, 422, "name"),
    "a path": ({"name": "../experiments/one"}, 422, "name"),
    "a file": ({"name": "/etc/passwd"}, 422, "name"),
    "a file's name": ({"name": "mine.yaml"}, 422, "name"),
    "upper case": ({"name": "One"}, 422, "name"),
    "a long name": ({"name": "a" * 41}, 422, "name"),
    "markup": ({"name": "<img src=x>"}, 422, "name"),
    "no seeds": ({"seeds": 0}, 422, "seeds"),
    "many seeds": ({"seeds": 51}, 422, "seeds"),
    "half a seed": ({"seeds": 1.5}, 422, "seeds"),
    "seeds in words": ({"seeds": "many"}, 422, "seeds"),
    "huge seeds": ({"seeds": 10**30}, 422, "seeds"),
    "quick in words": ({"quick": "fast"}, 422, "quick"),
    "an empty key": ({"request_key": ""}, 422, "request_key"),
    "a long key": ({"request_key": "k" * 101}, 422, "request_key"),
    "NUL in the key": ({"request_key": "a\0b"}, 422, "request_key"),
    "an unknown field": ({"arms": {}}, 422, "arms"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_started_is_named(api: Api, name: str) -> None:
    change, status, field = REFUSED[name]
    answer = api("POST", "/experiments", {"name": "one"} | change)
    assert answer.status_code == status
    assert [problem["field"] for problem in answer.json()["problems"]] == [field]
    assert api.get("/experiments")["total"] == 0


def test_the_limit_of_seeds_is_told(api: Api) -> None:
    [problem] = api("POST", "/experiments", {"name": "one", "seeds": 51}).json()["problems"]
    assert "50" in problem["message"]


def test_an_unknown_name_is_no_file(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("question: is a file read?")
    answer = api("POST", "/experiments", {"name": "mine"})
    assert answer.status_code == 404
    assert answer.json()["where"] == "name"
    assert answer.json()["error"] == "no such experiment: mine; available: one, two"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("exp-none", 404),
        ("exp-", 422),
        ("exp-UPPER", 422),
        ("run-abc", 422),
        (f"exp-{'a' * 29}", 422),
        ("exp-a%27b", 422),
        ("exp-a%00", 422),
        ("..%2f..%2fstudio.db", 404),
    ],
)
def test_unknown_and_malformed_ids(api: Api, path: str, status: int) -> None:
    for method, rest in (
        ("GET", ""),
        ("GET", "/results.csv"),
        ("POST", "/cancel"),
        ("POST", "/resume"),
    ):
        answer = api(method, f"/experiments/{path}{rest}")
        assert answer.status_code == status, (method, rest, answer.text)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "offset=-1", "limit=x", "offset=1e9"])
def test_pages_have_bounds(api: Api, query: str) -> None:
    assert api("GET", f"/experiments?{query}").status_code == 422


def test_the_list_has_pages(api: Api) -> None:
    made = [start(api, request_key=str(i)) for i in range(3)]
    page = api.get("/experiments", limit=1, offset=1)
    assert page["total"] == 3
    assert [item["id"] for item in page["items"]] == [made[1]]


def test_cancel_and_resume(api: Api, engine: Engine) -> None:
    script = Script({"rl": SLOW, "opd": FAST}, stops_at=Key("final", "rl", 0, 1))
    exp = started(engine, definition("one"), script)
    runs = [run for arm in api.get(f"/experiments/{exp}")["arms"] for run in arm["runs"]]
    [running] = [run["id"] for run in runs if run["status"] == "running"]
    answer = api("POST", f"/experiments/{exp}/cancel")
    assert (answer.status_code, answer.json()) == (200, {"id": exp, "status": "cancelled"})
    assert read_run(engine, running)["cancel_mode"] == "save"
    again = api("POST", f"/experiments/{exp}/cancel")
    assert (again.status_code, again.json()["kind"]) == (409, "not running")
    early = api("POST", f"/experiments/{exp}/resume")
    assert (early.status_code, early.json()["kind"]) == (409, "not resumable")
    jobs.finish(engine, running, 1, "cancelled")
    answer = api("POST", f"/experiments/{exp}/resume")
    assert (answer.status_code, answer.json()) == (200, {"id": exp, "status": "running"})


def test_a_finished_one_is_not_resumed(api: Api, engine: Engine) -> None:
    exp = started(engine, definition("one"), Script({"rl": SLOW, "opd": FAST}), seeds=1)
    answer = api("POST", f"/experiments/{exp}/resume")
    assert (answer.status_code, answer.json()["kind"]) == (409, "not resumable")
    assert api.get(f"/experiments/{exp}")["status"] == "finished"


def test_the_reply_is_what_the_store_knows(api: Api, engine: Engine) -> None:
    exp = started(engine, definition("one"), Script({"rl": SLOW, "opd": FAST}), seeds=2)
    reply = api.get(f"/experiments/{exp}")
    assert reply == experiment_results.experiment(engine, exp)
    assert [arm["reached"] for arm in reply["arms"]] == [2, 2]
    assert reply["ratios"]["steps"]["value"] > 1


def test_results_as_a_table(api: Api, engine: Engine) -> None:
    arms = {"rl": {"label": FORMULA}, "opd": {"label": "OPD"}}
    made = definition("one", arms=arms, pairs=[], columns=COLUMNS)
    exp = started(engine, made, Script({"rl": SHORT, "opd": FAST}), seeds=3)
    answer = api("GET", f"/experiments/{exp}/results.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert f'filename="{exp}.csv"' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["label"] for row in rows] == ["Start", f"'{FORMULA}", "OPD"]
    results = experiment_results.experiment(engine, exp)
    for row, arm in zip(rows[1:], results["arms"], strict=True):
        assert row["arm"] == arm["name"]
        assert row["score"] == str(arm["score"])
        for metric, cell in arm["cells"].items():
            bounds = [row[name] for name in (metric, f"{metric} low", f"{metric} high")]
            assert bounds == [str(cell[name]) for name in ("value", "low", "high")]
    assert rows[1]["steps_to_target"] == ""
    assert rows[2]["steps_to_target"] == str(results["arms"][1]["steps_to_target"])


def test_who_may_only_look_starts_nothing(engine: Engine, tmp_path: Path) -> None:
    options = ServerOptions(data_dir=DataDir(tmp_path), token=TOKEN, view_token=VIEW)
    layer = SecurityLayer(rest_app(engine, options), policy(options))
    exp = started(engine, definition("one"), Script({"rl": SLOW, "opd": FAST}), seeds=1)
    requests = [
        ("/experiments", {"name": "one", "quick": True}),
        (f"/experiments/{exp}/cancel", None),
        (f"/experiments/{exp}/resume", None),
    ]

    async def send(headers: dict[str, str]) -> list[int]:
        transport = ASGITransport(layer)
        async with AsyncClient(transport=transport, base_url="http://127.0.0.1:7860") as client:
            sent = [
                await client.post(f"/api/v1{path}", json=body, headers=headers)
                for path, body in requests
            ]
        return [answer.status_code for answer in sent]

    assert asyncio.run(send(VIEWING)) == [403, 403, 403]
    assert experiment_results.experiments(engine)["total"] == 1
    assert asyncio.run(send(SAME | COOKIE)) == [201, 409, 409]
