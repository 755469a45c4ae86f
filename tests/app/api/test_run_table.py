"""The run table's routes: columns, order and groups by address, and the same as CSV."""

import csv
from typing import Any

import pytest
from sqlalchemy import Engine

from opd.config.run import parse
from storage.queue import jobs
from tests.support.api_client import Api, stored_run

RATE = "optimizer.learning_rate"


@pytest.fixture
def runs(engine: Engine) -> list[str]:
    """One with steps and a score, and two that are queued."""
    made = [stored_run(engine)]
    for rate in (1e-3, 1e-5):
        config = parse({"name": f"at {rate}", "optimizer": {"learning_rate": rate}})
        made.append(jobs.create_run(engine, config))
    return made


def test_without_columns_the_list_is_as_ever(api: Api, runs: list[str]) -> None:
    page = api.get("/runs")
    assert set(page) == {"items", "total"} and "columns" not in page["items"][0]
    assert [item["id"] for item in page["items"]] == runs[::-1]


def test_columns_sort_and_groups(api: Api, runs: list[str]) -> None:
    page = api.get("/runs", columns=f"reverse_kl:best, {RATE}", sort=RATE, order="desc")
    assert [c["label"] for c in page["columns"]] == ["Reverse KL, best", RATE]
    assert [item["columns"][RATE] for item in page["items"]] == sorted(
        (item["columns"][RATE] for item in page["items"]), reverse=True
    )
    assert "disk" in page["items"][0]
    by_kl = api.get("/runs", sort="reverse_kl")["items"]
    assert by_kl[0]["id"] == runs[0] and {i["id"] for i in by_kl[1:]} == set(runs[1:])
    grouped = api.get("/runs", group="status", columns="score", limit=2)
    assert [(g["value"], g["runs"]) for g in grouped["groups"]] == [("finished", 1), ("queued", 2)]
    assert grouped["groups"][0]["columns"]["score"]["mean"] == 0.5


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"columns": "learning"}, "columns"),
        ({"sort": "no<b>"}, "sort"),
        ({"group": "loss"}, "group"),
        ({"columns": "\0"}, "columns"),
        ({"sort": "x" * 421}, "sort"),
        ({"columns": "a" * 10_001}, "columns"),
        ({"order": "up"}, "order"),
    ],
)
@pytest.mark.parametrize("path", ["/runs", "/runs.csv"])
def test_unknown_columns_are_refused_by_their_field(
    api: Api, runs: list[str], path: str, params: dict[str, Any], field: str
) -> None:
    reply = api("GET", path, params=params)
    assert reply.status_code == 422
    body = reply.json()
    assert field == (body["problems"][0]["field"] if "problems" in body else body["where"])


def test_the_list_of_columns(api: Api, runs: list[str]) -> None:
    answer = api.get("/runs/columns")
    ids = [item["id"] for item in answer["items"]]
    assert {"status", "score:best", "reverse_kl", "eval/held-out/pass@1:best", RATE} <= set(ids)
    assert answer["total"] == len(ids) == len(set(ids))


def test_the_table_as_csv(api: Api, runs: list[str]) -> None:
    plain = list(csv.reader(api("GET", "/runs.csv").text.splitlines()))
    assert plain[0][:3] == ["id", "name", "status"] and len(plain) == 4
    params = {"columns": f"{RATE},score,id", "sort": RATE, "status": "queued"}
    chosen = list(csv.reader(api("GET", "/runs.csv", params=params).text.splitlines()))
    assert chosen == [
        ["id", "name", RATE, "score"],
        [runs[2], "at 1e-05", "1e-05", ""],
        [runs[1], "at 0.001", "0.001", ""],
    ]
