"""Marks over REST: made, listed, changed by one at a time, and refused."""

import csv
import io
import json
from typing import Any

import pytest
from sqlalchemy import Engine, update

from storage import schema
from storage.engine import begin
from tests.support.api_client import TOKENS, Api, first_rollout, stored_run

EVIL = '</script><img src=x onerror="alert(1)">\n=HYPERLINK("x") \u202e'


@pytest.fixture
def run_id(engine: Engine) -> str:
    return stored_run(engine)


def test_a_token_and_a_rollout_are_marked(api: Api, run_id: str) -> None:
    rollout = first_rollout(api, run_id)
    path = f"/rollouts/{rollout}/marks"
    assert api.get(path) == {"items": [], "total": 0}
    reply = api("POST", path, {"position": TOKENS - 1, "note": EVIL})
    assert reply.status_code == 201
    token = reply.json()
    assert (token["rollout_id"], token["run_id"]) == (rollout, run_id)
    assert (token["note"], token["text"], token["version"]) == (EVIL, "<end>", 1)
    assert (token["before"], token["after"]) == (" butÉ but but".replace("É", "é"), "")
    whole = api("POST", path, {}).json()
    assert (whole["position"], whole["note"], whole["text"]) == (None, "", None)
    assert [i["id"] for i in api.get(path)["items"]] == [whole["id"], token["id"]]
    assert api.get(f"/runs/{run_id}/marks", offset=1, limit=1)["total"] == 2
    page = api.get(f"/runs/{run_id}/rollouts", marked=True)
    assert [(i["id"], i["marked"]) for i in page["items"]] == [(rollout, 2)]
    table = api("GET", f"/runs/{run_id}/rollouts.csv", params={"marked": "true"}).text
    [row] = list(csv.DictReader(io.StringIO(table)))
    assert (row["id"], row["marks"]) == (rollout, f"rollout: \n{TOKENS - 1}: {EVIL}")
    assert api("DELETE", f"/marks/{whole['id']}").json() == {"id": whole["id"]}
    assert api.get(f"/runs/{run_id}/marks")["total"] == 1


def test_of_two_people_the_second_is_told_what_the_first_noted(api: Api, run_id: str) -> None:
    path = f"/rollouts/{first_rollout(api, run_id)}/marks"
    mark = api("POST", path, {"position": 0, "note": "hers"}).json()
    again = api("POST", path, {"position": 0, "note": "his"})
    assert again.status_code == 409
    assert again.json()["current"]["note"] == "hers" and again.json()["kind"] == "stale edit"
    where, seen = f"/marks/{mark['id']}", {"If-Match": '"1"'}
    changed = api("PATCH", where, {"note": "hers, better"}, headers=seen).json()
    assert changed["version"] == 2
    for method, body in (("PATCH", {"note": "his"}), ("DELETE", None)):
        reply = api(method, where, body, headers=seen)
        assert reply.status_code == 409
        assert reply.json()["current"]["note"] == "hers, better"
        assert reply.json()["current"]["id"] == mark["id"]
    assert api("PATCH", where, {"note": "his"}, headers={"If-Match": "2"}).json()["version"] == 3
    assert api("DELETE", where, headers={"If-Match": "*"}).status_code == 200
    assert api("DELETE", where).status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"position": TOKENS}, "position"),
        ({"position": -1}, "position"),
        ({"position": True}, "position"),
        ({"position": 10**30}, "position"),
        ({"note": "n" * 2001}, "note"),
        ({"note": "a\0"}, "note"),
        ({"note": "\x1b[31m"}, "note"),
        ({"note": None}, "note"),
        ({"note": ["x"]}, "note"),
        ({"author": "x"}, "author"),
    ],
)
def test_a_wrong_mark_names_its_field(api: Api, run_id: str, body: Any, field: str) -> None:
    path = f"/rollouts/{first_rollout(api, run_id)}/marks"
    reply = api("POST", path, body)
    assert reply.status_code == 422
    refusal = reply.json()
    assert (refusal.get("where") or refusal["problems"][0]["field"]) == field
    assert api.get(path)["total"] == 0


def test_what_does_not_exist_is_not_found(api: Api, run_id: str) -> None:
    assert api("POST", "/rollouts/roll-none/marks", {}).status_code == 404
    assert api("GET", "/rollouts/roll-none/marks").status_code == 404
    assert api("GET", "/runs/run-none/marks").status_code == 404
    assert api("GET", "/runs/run-none/marked-prompts.jsonl").status_code == 404
    assert api("PATCH", "/marks/mark-none", {"note": ""}).status_code == 404
    assert api("DELETE", "/marks/..%2f", None).status_code in (404, 422)


def test_the_prompts_of_marked_rollouts_are_a_file(api: Api, engine: Engine, run_id: str) -> None:
    """The stored run has no data rows, as one of an earlier version: nothing is made up."""
    path = f"/runs/{run_id}/marked-prompts.jsonl"
    assert "has no prompts of marked rollouts" in api("GET", path).json()["error"]
    api("POST", f"/rollouts/{first_rollout(api, run_id)}/marks", {})
    reply = api("GET", path)
    assert reply.status_code == 422
    assert "1 prompt is left out: their rows were not recorded" in reply.json()["error"]
    prompts = api.get(f"/runs/{run_id}/marks")["prompts"]
    assert prompts["count"] == 0 and len(prompts["remarks"]) == 1
    with begin(engine) as connection:
        connection.execute(update(schema.prompt).values(data_row={"hint": "é"}))
    reply = api("GET", path)
    assert [json.loads(line) for line in reply.text.splitlines()] == [
        {"prompt": "why <b>", "hint": "é", "answer": "42"}
    ]
    assert reply.headers["content-disposition"].startswith("attachment")
    prompts = api.get(f"/runs/{run_id}/marks")["prompts"]
    file = f"{run_id}-marked-prompts.jsonl"
    assert prompts == {
        **{"count": 1, "remarks": []},
        "settings": [f"prompts={file}", "prompts.grader=exact"],
    }
