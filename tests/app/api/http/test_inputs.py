"""Hostile input to the REST routes: text, numbers, sizes. OPD_FULL=1 runs the full counts."""

import csv
import io
import json
import os
import random
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine

from tests.support.api_client import Api, first_rollout, stored_run

FULL = os.environ.get("OPD_FULL") == "1"


@pytest.fixture
def run_id(engine: Engine) -> str:
    return stored_run(engine)


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", '=HYPERLINK("x")']


def test_no_cell_of_the_table_is_a_formula(api: Api) -> None:
    for formula in FORMULAS:
        run_id = api("POST", "/runs", {"config": {"name": formula}}).json()["id"]
        api("PATCH", f"/runs/{run_id}", {"notes": formula, "tags": [formula.strip()]})
    api("POST", "/runs", {"config": {"name": 'plain, "quoted"'}})
    answer = api("GET", "/runs.csv")
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len(rows) == len(FORMULAS) + 1
    for row in rows:
        for cell in row.values():
            assert not cell.lstrip(" \n").startswith(("=", "+", "-", "@", "\t", "\r")), cell
    assert 'plain, "quoted"' in [row["name"] for row in rows]


SQL = [
    "' OR '1'='1",
    "'; DROP TABLE run; --",
    '" OR ""="',
    "1); DELETE FROM run; --",
    "%' UNION SELECT token FROM x --",
    "\\'; --",
    "' AND 1=randomblob(1000000000) --",
    "%",
    "_",
]


def test_sql_in_text_is_text(api: Api, run_id: str) -> None:
    for payload in SQL:
        assert api.get("/runs", search=payload)["total"] == 0, payload
        assert api.get("/runs", tag=payload)["total"] == 0
        assert api.get(f"/runs/{run_id}/rollouts", text=payload)["total"] == 0
        for field in ("sort", "kind", "finish_reason", "status"):
            path = "/runs" if field == "status" else f"/runs/{run_id}/rollouts"
            assert api("GET", path, params={field: payload}).status_code == 422
        renamed = api("PATCH", f"/runs/{run_id}", {"name": payload, "tags": [payload]})
        assert (renamed.json()["name"], renamed.json()["tags"]) == (payload, [payload])
        assert api.get("/runs", search=payload)["total"] == 1
        assert api.get("/runs", tag=payload)["total"] == 1
        api("PATCH", f"/runs/{run_id}", {"name": "with tokens", "tags": []})


def deep(levels: int) -> str:
    return '{"config": ' + '{"a": ' * levels + "1" + "}" * levels + "}"


HOSTILE_BODIES = {
    "deep": deep(900),
    "deeper than the parser": deep(100_000),
    "brackets": "[" * 500_000,
    "many fields": json.dumps({"config": {f"k{i}": i for i in range(100_000)}}),
    "long text": json.dumps({"config": {"name": "x" * 1_900_000}}),
    "long target": json.dumps({"config": {"student": {"lora": {"targets": ["x" * 1_900_000]}}}}),
    "many targets": json.dumps({"config": {"student": {"lora": {"targets": ["x"] * 400_000}}}}),
    "NaN": '{"config": {"optimizer": {"learning_rate": NaN}}}',
    "infinity": '{"config": {"steps": Infinity}}',
    "1e308": '{"config": {"steps": 1e308, "seed": 1e308}}',
    "1e999": '{"config": {"steps": 1e999}}',
    "huge number": '{"config": {"steps": ' + "9" * 4000 + "}}",
    "number past the parser": '{"config": {"steps": ' + "9" * 1_000_000 + "}}",
    "surrogate": '{"config": {"name": "\\ud800"}}',
    "surrogate key": '{"config": {"\\ud800": 1}}',
    "surrogate field": '{"\\ud800": 1}',
    "NUL": '{"config": {"name": "a\\u0000b"}}',
    "yaml bomb": json.dumps(
        {"yaml": "a: &a [x,x]\n" + "".join(f"b{i}: &b{i} [*a,*a]\n" for i in range(99))}
    ),
    "yaml depth": json.dumps({"yaml": "[" * 100_000}),
    "yaml tag": json.dumps({"yaml": "!!python/object/apply:os.system ['true']"}),
    "yaml size": json.dumps({"yaml": "x" * 1_900_000}),
    "set depth": json.dumps({"recipe": "demo", "set": ["a." * 990 + "a=1"]}),
    "set brackets": json.dumps({"recipe": "demo", "set": ["name=" + "[" * 1990]}),
    "set date": json.dumps({"recipe": "demo", "set": ["name=2001-99-99"]}),
    "set count": json.dumps({"recipe": "demo", "set": ["steps=1"] * 10_000}),
    "not json": "\xff\xfe",
    "null": "null",
    "list": "[]",
    "text": '"text"',
    "both": '{"config": {}, "yaml": ""}',
    "neither": "{}",
}


@pytest.mark.parametrize("path", ["/runs", "/config/check"])
@pytest.mark.parametrize("name", HOSTILE_BODIES)
def test_hostile_configurations_are_refused(api: Api, name: str, path: str) -> None:
    body = HOSTILE_BODIES[name]
    headers = {"content-type": "application/json"}
    answer = api("POST", path, content=body.encode("utf-8", "surrogatepass"), headers=headers)
    if answer.status_code == 200:
        assert answer.json()["ok"] is False and answer.json()["problems"]
    else:
        assert answer.status_code in (400, 422)
    assert len(answer.content) < 100_000
    assert api.get("/runs")["total"] == 0


@pytest.mark.parametrize(
    "path",
    [
        "/runs?limit=0",
        "/runs?limit=1001",
        "/runs?limit=99999999999999999999",
        "/runs?offset=-1",
        "/runs?offset=1e9",
        "/runs?offset=9223372036854775808",
        "/runs?search=%00",
        f"/runs?search={'x' * 501}",
        "/runs?status=nope",
        "/runs/RUN/steps?after=-2",
        "/runs/RUN/steps?after=nan",
        "/runs/RUN/rollouts?min_kl=nan",
        "/runs/RUN/rollouts?min_kl=inf",
        "/runs/RUN/rollouts?step=-1",
        "/runs/RUN/rollouts?step=99999999999",
        "/runs/RUN/rollouts?correct=maybe",
        "/runs/RUN/rollouts?sort=id;drop",
        "/runs/RUN/hot-tokens?kind=x",
        "/runs/RUN/log?limit=1000000000",
        "/runs/RUN/log?offset=-1",
        "/rollouts/roll-x/topk?position=-1",
        "/rollouts/roll-x/topk?position=0&count=513",
        "/runs/x",
        "/runs/run-A",
        "/runs/run-%00",
        "/rollouts/run-x",
    ],
)
def test_parameters_out_of_bounds(api: Api, run_id: str, path: str) -> None:
    answer = api("GET", path.replace("RUN", run_id))
    assert answer.status_code == 422, answer.text
    assert answer.json()["problems"][0]["message"]


# What a schema-driven client would try, and what it would not
ODD_TEXTS = [
    *("", "run-x", "-1", "0", "1", "1000", "1e9", "9" * 25, "nan", "inf", "-0", "true", "null"),
    *("x" * 600, "\0", "%00", "é\u202e", "'", "=1", "save", "train", "stop", "-kl_sum", "reward"),
    *("[]", "{}", "😀", "all", "completion_ids,mask", "student_entropy,,", "../..", "\n", "queued"),
]
ODD_VALUES = [None, True, 0, -1, 2**31, 2**63, 2**64, 1e308, [], {}, ["a"] * 3, {"steps": 3}, 0.5]
ODD_FIELDS = ["config", "recipe", "set", "name", "yaml", "tags", "notes", "mode", "request_key"]


def odd_value(chance: random.Random, depth: int = 0) -> Any:
    if depth < 3 and chance.random() < 0.3:
        names = [*ODD_FIELDS, "steps", "student", "optimizer", "lora", "temperatures"]
        return {chance.choice(names): odd_value(chance, depth + 1) for _ in range(3)}
    return chance.choice([*ODD_VALUES, *ODD_TEXTS, "demo"])


def test_no_request_is_an_error_of_the_server(api: Api, run_id: str) -> None:
    chance = random.Random(0)
    ids = [run_id, first_rollout(api, run_id)]
    routes = [
        (method, path.removeprefix("/api/v1"), route)
        for path, methods in api.get("/openapi.json")["paths"].items()
        for method, route in methods.items()
    ]
    answers = Counter[int]()
    for _ in range(10_000 if FULL else 300):
        method, path, route = chance.choice(routes)
        places = {p["name"]: p["in"] for p in route.get("parameters", [])}
        for name in (n for n, kind in places.items() if kind == "path"):
            value = chance.choice([*ids, *ids, chance.choice(ODD_TEXTS)])
            path = path.replace(f"{{{name}}}", quote(value, safe="") or "x")
        queries = [n for n, kind in places.items() if kind == "query" and chance.random() < 0.5]
        body = {name: odd_value(chance, 1) for name in chance.sample(ODD_FIELDS, 3)}
        body |= {"recipe": "demo"} if chance.random() < 0.5 else {}
        answer = api(
            method,
            path,
            chance.choice([body, odd_value(chance)]) if "requestBody" in route else None,
            params={name: chance.choice(ODD_TEXTS) for name in queries},
        )
        assert answer.status_code < 500, (method, path, body)
        answers[answer.status_code] += 1
    assert answers[200] > 20 and answers[422] > 20  # neither all refused nor all taken
