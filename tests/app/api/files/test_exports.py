"""Rollouts as tables, and requests for files, over the REST routes."""

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from sqlalchemy import Engine, update

from app.worker.files import kept, process
from opd.interchange.spreadsheet import ROLLOUT_COLUMNS
from storage import schema
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import requests, run_details
from tests.support.api_client import Api, stored_run

BODIES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "export", "runs": []}, "runs"),
    ({"kind": "export", "runs": ["run-a"] * 101}, "runs"),
    ({"kind": "export", "runs": ["run-a", "run-a"]}, "twice"),
    ({"kind": "export", "runs": ["../../etc/passwd"]}, "runs.0"),
    ({"kind": "export", "runs": ["run-a\n"]}, "runs.0"),
    ({"kind": "export", "runs": ["run-a"], "format": "exe"}, "format"),
    ({"kind": "export", "runs": ["run-a"], "table": True}, "csv or parquet"),
    ({"kind": "report", "runs": ["run-a", "run-b"]}, "one run"),
    ({"kind": "report", "runs": ["run-a"], "rollouts": 0}, "rollouts"),
    ({"kind": "save", "runs": ["run-a", "run-b"]}, "one run"),
    ({"kind": "save", "runs": ["run-a"], "out": "/etc/passwd"}, "out"),
    ({"kind": "shell", "runs": ["run-a"]}, "kind"),
]


@pytest.fixture
def run_id(engine: Engine) -> str:
    return stored_run(engine)


def made(api: Api, engine: Engine, tmp_path: Path, body: dict[str, Any]) -> dict[str, Any]:
    """The request after the file process has been there."""
    answer = api("POST", "/files", body)
    assert answer.status_code == 201, answer.text
    process.serve(engine, DataDir(tmp_path), 0.0)  # nothing: it looks for no time at all
    process.serve(engine, DataDir(tmp_path), 0.1)
    (item,) = (i for i in api.get("/files")["items"] if i["id"] == answer.json()["id"])
    return dict(item)


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_the_list_s_filters_hold_for_the_table(api: Api, run_id: str) -> None:
    answer = api("GET", f"/runs/{run_id}/rollouts.csv", params={"step": 2, "correct": False})
    rows = rows_of(answer.text)
    listed = api.get(f"/runs/{run_id}/rollouts", step=2, correct=False, sort="-kl_sum")["items"]
    assert [row["id"] for row in rows] == [item["id"] for item in listed] and len(rows) == 2
    assert list(rows[0]) == list(ROLLOUT_COLUMNS)
    assert (rows[0]["right"], rows[0]["answer"], rows[0]["prompt"]) == ("False", "42", "why <b>")
    assert float(rows[0]["kl_sum"]) == listed[0]["kl_sum"]
    assert answer.headers["content-disposition"] == f'attachment; filename="{run_id}-rollouts.csv"'
    parquet = api("GET", f"/runs/{run_id}/rollouts.parquet", params={"sort": "step"})
    table = pq.read_table(io.BytesIO(parquet.content))
    assert table.num_rows == 6 and str(table.schema.field("right").type) == "bool"
    assert table.column("step").to_pylist() == [1, 1, 1, 2, 2, 2]
    assert table.column("completion").to_pylist()[0] == " butÉ but but"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_what_a_table_cannot_be_asked_for(api: Api, run_id: str, ending: str) -> None:
    for query in ({"sort": "nope"}, {"step": "x"}, {"kind": "; drop"}, {"text": "\0"}):
        assert api("GET", f"/runs/{run_id}/rollouts.{ending}", params=query).status_code == 422
    assert api("GET", f"/runs/run-gone/rollouts.{ending}").status_code == 404


def test_rollouts_of_several_runs_become_one_file(
    api: Api, engine: Engine, tmp_path: Path, run_id: str
) -> None:
    other = stored_run(engine)
    done = made(api, engine, tmp_path, {"kind": "export", "runs": [run_id, other]})
    assert (done["state"], done["file"], done["damaged"]) == ("done", "2-runs-rollouts.jsonl", 0)
    answer = api("GET", f"/files/{done['id']}")
    assert len(answer.content) == done["bytes"]
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.text.count(f'"run_id":"{run_id}"') == answer.text.count(f'"{other}"') == 6
    assert [item["id"] for item in api.get("/files", run=other)["items"]] == [done["id"]]
    flat = made(api, engine, tmp_path, {"kind": "export", "runs": [run_id], "format": "csv"})
    table = api("GET", f"/files/{flat['id']}").text
    assert table == api("GET", f"/runs/{run_id}/rollouts.csv", params={"sort": "step"}).text
    assert api("DELETE", f"/files/{done['id']}").status_code == 200
    assert api("GET", f"/files/{done['id']}").status_code == 404
    assert [p.name for p in DataDir(tmp_path).downloads.iterdir()] == [flat["id"]]


def test_a_report_and_what_is_alike(api: Api, engine: Engine, tmp_path: Path, run_id: str) -> None:
    body = {"kind": "report", "runs": [run_id], "rollouts": 2}
    first = api("POST", "/files", body).json()["id"]
    assert api("POST", "/files", body).json()["id"] == first
    listed = api.get("/files", run=run_id)
    assert (listed["items"][0]["state"], listed["total"], listed["model"]) == ("queued", 1, None)
    done = made(api, engine, tmp_path, body)
    page = api("GET", f"/files/{done['id']}")
    assert page.text.startswith("<!doctype html>") and "attachment" in str(page.headers)
    assert page.headers["content-type"] == "application/octet-stream"


def test_a_run_without_a_checkpoint_or_a_disk_without_room(
    api: Api, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"kind": "save", "runs": [run_id]}
    assert "no checkpoint" in api("POST", "/files", body).json()["error"]
    usage = shutil.disk_usage("/")._replace(free=10**8)
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: usage)
    refused = api("POST", "/files", {"kind": "export", "runs": [run_id]})
    assert (refused.status_code, refused.json()["kind"]) == (507, "disk full")
    assert "100 MB are free" in refused.json()["error"]
    assert api.get("/files")["total"] == 0


@pytest.mark.parametrize(("body", "named"), BODIES)
def test_bad_requests_are_refused_and_leave_nothing(
    api: Api, body: dict[str, Any], named: str
) -> None:
    answer = api("POST", "/files", body)
    assert answer.status_code == 422 and named in answer.text
    assert api.get("/files")["total"] == 0


def test_bad_ids_and_requests_of_another_kind(api: Api, engine: Engine, run_id: str) -> None:
    for name in ("ask-", "run-a", "ask-../../x", "ask-%00", "ask-" + "a" * 200, "..%2fstudio.db"):
        for method in ("GET", "DELETE"):
            assert api(method, f"/files/{name}").status_code in (404, 422)
    doctor = requests.enqueue(engine, "doctor", {})
    for method in ("GET", "DELETE"):
        assert api(method, f"/files/{doctor}").status_code == 404
    assert requests.waiting(engine) == [doctor]
    assert api("POST", "/files", {"kind": "export", "runs": ["run-gone"]}).status_code == 404
    run_details.delete_run(engine, run_id)
    assert api("GET", "/files", params={"run": run_id}).status_code == 404
    assert api("POST", "/files", {"kind": "export", "runs": [run_id]}).status_code == 404


def test_files_go_by_age_and_by_limit(
    api: Api, engine: Engine, tmp_path: Path, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"kind": "export", "runs": [run_id]}
    data_dir = DataDir(tmp_path)
    first, second = (made(api, engine, tmp_path, body)["id"] for _ in range(2))
    (data_dir.downloads / ".ask-x.partial").write_text("left by one that was killed")
    kept.sweep(engine, data_dir)
    assert {p.name for p in data_dir.downloads.iterdir()} == {first, second}
    monkeypatch.setattr(kept, "MAX_BYTES", 10)
    kept.sweep(engine, data_dir)
    assert {p.name for p in data_dir.downloads.iterdir()} == {second}
    assert [item["id"] for item in api.get("/files")["items"]] == [second]
    with begin(engine) as connection:
        connection.execute(update(schema.question).values(created_at=1.0))
    kept.sweep(engine, data_dir)
    assert list(data_dir.downloads.iterdir()) == [] and api.get("/files")["total"] == 0
    assert api("GET", f"/files/{second}").status_code == 404
