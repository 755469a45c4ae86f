"""Models and data to choose from, over the REST routes."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from app.server import ServerOptions, rest_app
from app.sources.roots import SourceOptions
from opd.config.folders import BUNDLED_DATA, BUNDLED_MODELS
from opd.config.run import parse
from storage import schema
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs
from tests.app.sources.test_folders import STUDENT
from tests.app.sources.test_roots import ODD, UP
from tests.support.api_client import Api


@pytest.fixture
def rooted(api: Api, engine: Engine, tmp_path: Path) -> Api:
    """The routes with a root of models and two of data."""
    for name in ("models", "rows", "more"):
        (tmp_path / name).mkdir()
    shutil.copytree(STUDENT, tmp_path / "models" / "mine")
    (tmp_path / "secret.jsonl").write_text("{}")
    (tmp_path / "rows" / "a.jsonl").write_text("{}")
    paths = {name: (tmp_path / name).resolve() for name in ("models", "rows", "more")}
    sources = SourceOptions((paths["models"],), (paths["rows"], paths["more"]), 1000)
    options = ServerOptions(data_dir=DataDir(tmp_path), token="t", sources=sources)
    api.app = rest_app(engine, options)
    return api


def test_places(api: Api, rooted: Api, tmp_path: Path) -> None:
    places = rooted.get("/sources/data")
    assert [root["number"] for root in places["roots"]] == [0, 1]
    assert places["roots"][0]["path"].endswith("/rows") and places["upload_bytes"] == 1000
    assert len(rooted.get("/sources/model")["roots"]) == 1
    (mine,) = rooted.get("/sources/model/roots/0")["items"]
    assert mine["value"] == str((tmp_path / "models" / "mine").resolve())
    (rows,) = rooted.get("/sources/data/roots/0")["items"]
    assert rows["value"].endswith("/rows/a.jsonl") and rows["path"] == "a.jsonl"
    answer = rooted("GET", "/sources/model/roots/1")
    assert answer.status_code == 404 and "--model-root" in answer.json()["error"]


def test_hostile_paths_read_nothing(rooted: Api) -> None:
    """Each way out, as a path, a part of one, and a search; of models and of data."""
    ways = [way for way in (*UP, *ODD) if "\udcff" not in way]
    count = 0
    for kind in ("model", "data"):
        for way in (*ways, *(f"mine/{way}" for way in ways), *(f"{w}/secret.jsonl" for w in ways)):
            answer = rooted("GET", f"/sources/{kind}/roots/0", params={"path": way})
            assert answer.status_code in (404, 422), way
            assert "secret.jsonl" not in answer.text and "passwd" not in answer.text
            count += 1
        for way in ways:
            answer = rooted("GET", f"/sources/{kind}/roots/0", params={"search": way})
            assert answer.status_code in (200, 422) and "secret" not in answer.text
            count += 1
    for raw in ("0/..", "%2e%2e", "-1", "1e0", "0%00", "x", "9" * 40, "0%2f..%2f..", "../../runs"):
        assert rooted("GET", f"/sources/model/roots/{raw}").status_code in (404, 422), raw
    assert count > 150


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("/sources/exe", {}),
        ("/sources/model/elsewhere", {}),
        ("/sources/data/runs", {}),
        ("/sources/model/bundled", {"limit": 0}),
        ("/sources/model/bundled", {"limit": 201}),
        ("/sources/model/bundled", {"offset": -1}),
        ("/sources/model/hub", {"search": "x" * 501}),
        ("/sources/model/hub", {"path": "x"}),
        ("/sources/model/roots/0", {"path": "x" * 4001}),
    ],
)
def test_what_cannot_be_asked(rooted: Api, path: str, parameters: dict[str, Any]) -> None:
    assert rooted("GET", path, params=parameters).status_code in (404, 422)


def test_bundled_models_and_data(api: Api) -> None:
    models = {item["name"]: item for item in api.get("/sources/model/bundled")["items"]}
    assert tuple(models) == BUNDLED_MODELS
    assert models["bundled/teacher"]["value"] == "bundled/teacher"
    assert models["bundled/teacher"]["model"]["parameters"] > 500_000
    data = api.get("/sources/data/bundled", search="HAND")
    assert [item["value"] for item in data["items"]] == ["bundled/handbook"]
    assert api.get("/sources/data/bundled", limit=3)["total"] == len(BUNDLED_DATA)
    assert api.get("/sources/data")["upload_bytes"] == 200_000_000


def test_runs_with_checkpoints(api: Api, engine: Engine) -> None:
    kept = jobs.create_run(engine, parse({"name": "<b>kept"}))
    jobs.create_run(engine, parse({"name": "without"}))
    with begin(engine) as connection:
        for step in (20, 10):
            row = {"run_id": kept, "step": step, "path": "x", "manifest": {}, "created_at": 1.0}
            connection.execute(insert(schema.checkpoint).values(row))
    page = api.get("/sources/model/runs")
    assert page["total"] == 1 and page["items"][0]["value"] == kept
    assert page["items"][0]["steps"] == [10, 20] and page["items"][0]["name"] == "<b>kept"
    assert api.get("/sources/model/runs", search="WITHOUT")["total"] == 0
    assert api.get("/sources/model/runs", search="KEPT")["total"] == 1


def test_the_hub_s_cache(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "hub"
    for name in ("models--org--whole", "models--org--half", "datasets--org--rows", "models--gone"):
        (cache / name / "refs").mkdir(parents=True)
        if name != "models--gone":
            (cache / name / "refs" / "main").write_text("abc")
    shutil.copytree(STUDENT, cache / "models--org--whole" / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("opd.models.architecture.try_to_load_from_cache", lookup(cache))
    half, whole = api.get("/sources/model/hub")["items"]
    assert (half["name"], half["value"]) == ("org/half", None)
    assert (whole["name"], whole["value"]) == ("org/whole", "org/whole")
    assert whole["model"]["kind"] == "qwen3"
    assert api.get("/sources/data/hub")["items"][0]["value"] == "org/rows"
    shutil.rmtree(cache)
    assert api.get("/sources/model/hub")["items"] == []


def lookup(cache: Path) -> Any:
    """The library's own look-up in another cache."""
    from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415 - slow to import

    return lambda name, file: try_to_load_from_cache(name, file, cache_dir=cache)
