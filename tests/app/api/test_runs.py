"""The REST routes over a real database, without pages and without the security layer."""

import fcntl
import json
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, func, select, update

from app.api import runs as runs_routes
from app.worker.run_files.local import LocalFiles
from opd.config.drafts.short_forms import with_overrides
from opd.config.drafts.yaml_text import load_yaml
from opd.config.recipes import recipe
from opd.config.run import parse
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.queue.inputs import read_inputs
from storage.schema import token_record
from tests.support.api_client import TOKENS, Api, first_rollout, rollout, stored_run
from tests.support.devices.fake_gpus import fake_driver
from tests.support.stored_runs import interrupted_run, me, write_prompts


@pytest.fixture
def run_id(engine: Engine) -> str:
    return stored_run(engine)


def test_a_run_from_start_to_deletion(api: Api) -> None:
    started = api("POST", "/runs", {"recipe": "demo", "set": ["steps=3"], "name": "é <b>"})
    assert started.status_code == 201
    run_id = started.json()["id"]
    listed = api.get("/runs")
    assert listed["total"] == 1
    assert {k: listed["items"][0][k] for k in ("id", "name", "status", "steps")} == {
        "id": run_id,
        "name": "é <b>",
        "status": "queued",
        "steps": 3,
    }
    edited = api("PATCH", f"/runs/{run_id}", {"name": "b", "tags": ["x"], "notes": "n"}).json()
    assert (edited["name"], edited["tags"], edited["notes"]) == ("b", ["x"], "n")
    assert api.get("/runs", tag="x")["total"] == 1 and api.get("/runs", tag="y")["total"] == 0
    assert api("POST", f"/runs/{run_id}/cancel", {"mode": "discard"}).json() == {
        "id": run_id,
        "status": "cancelled",
    }
    assert api("POST", f"/runs/{run_id}/cancel").status_code == 409
    assert api("POST", f"/runs/{run_id}/resume").json()["status"] == "queued"
    assert api("DELETE", f"/runs/{run_id}").status_code == 200
    assert api.get("/runs")["total"] == 0
    assert api("GET", f"/runs/{run_id}").status_code == 404
    assert api("POST", f"/runs/{run_id}/restore").status_code == 200
    assert api.get(f"/runs/{run_id}")["config"]["steps"] == 3


def test_a_run_whose_data_has_changed_is_resumed_by_choice(api: Api, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    engine = api.app.state.engine
    run_id = interrupted_run(engine, rows)
    assert api.get(f"/runs/{run_id}/changes") == {"items": [], "total": 0}
    write_prompts(rows, 6)
    refused = api("POST", f"/runs/{run_id}/resume")
    assert refused.status_code == 409
    changes = [{"field": "prompts.source", "text": "rows.jsonl has 6 rows, 4 when the run started"}]
    assert (refused.json()["kind"], refused.json()["changes"]) == ("changed inputs", changes)
    assert api.get(f"/runs/{run_id}/changes") == {"items": changes, "total": 1}
    assert api("POST", f"/runs/{run_id}/resume", {"accept_changes": False}).status_code == 409
    assert api.get(f"/runs/{run_id}")["status"] == "interrupted"
    assert api("POST", f"/runs/{run_id}/resume", {"accept": True}).status_code == 422
    assert api("POST", f"/runs/{run_id}/resume", {"accept_changes": True}).status_code == 200
    assert read_inputs(engine, run_id).accept


def test_one_request_key_starts_one_run(api: Api) -> None:
    body = {"recipe": "demo", "request_key": "k"}
    assert len({api("POST", "/runs", body).json()["id"] for _ in range(5)}) == 1
    assert api.get("/runs")["total"] == 1


def test_a_run_from_data_and_from_yaml(api: Api) -> None:
    for body in ({"config": {"steps": 7}}, {"yaml": "steps: 7"}):
        run_id = api("POST", "/runs", body).json()["id"]
        assert api.get(f"/runs/{run_id}")["config"]["steps"] == 7


def test_problems_name_their_fields(api: Api) -> None:
    config = {"stepz": 1, "steps": 0, "optimizer": {"learning_rate": 9}}
    for path in ("/runs", "/config/check"):
        answer = api("POST", path, {"config": config})
        problems = {p["field"]: p["message"] for p in answer.json()["problems"]}
        assert set(problems) == {"stepz", "steps", "optimizer.learning_rate"}
        assert "did you mean steps?" in problems["stepz"]
        assert answer.status_code == (422 if path == "/runs" else 200)
    answer = api("POST", "/runs", {"recipe": "demo", "nmae": "x"})
    assert (answer.status_code, answer.json()["problems"][0]["field"]) == (422, "nmae")
    assert api("POST", "/runs", {"recipe": "nope"}).json()["where"] == "recipe"
    assert api.get("/runs")["total"] == 0


def test_the_check_gives_the_same_run_in_every_form(api: Api) -> None:
    config = {"name": "it's", "steps": 3, "student": {"lora": {"rank": 4}}, "device": "cpu"}
    answer = api("POST", "/config/check", {"config": config}).json()
    assert answer["ok"] and not answer["problems"]
    assert parse(load_yaml(answer["yaml"])) == parse(config) == parse(answer["config"])
    command = shlex.split(answer["command"])
    assert command[:3] == ["opd", "train", "demo"]
    sets = [word for word in command[3:] if word != "--set"]
    assert parse(with_overrides(recipe("demo").config, sets)) == parse(config)
    plain = api("POST", "/config/check", {"recipe": "demo"}).json()["command"]
    assert plain == "opd train demo"


@pytest.mark.parametrize("text", ["1e5", "null", "; rm -rf /", "$(id)", "a\nb", "'", "--set", "é"])
def test_the_command_never_says_something_else(api: Api, text: str) -> None:
    config = {"prompts": {"system": text}}
    command = api("POST", "/config/check", {"config": config}).json()["command"]
    words = shlex.split(command)
    if words[2:] != ["run.yaml"]:
        sets = [word for word in words[3:] if word != "--set"]
        assert parse(with_overrides(recipe("demo").config, sets)).prompts.system == text


def test_the_schema_and_the_recipes(api: Api) -> None:
    schema = api.get("/config/schema")
    assert schema["schema"]["properties"]["steps"]["minimum"] == 1
    assert schema["visible"][0] == "student.model" and schema["defaults"]["steps"] == 20
    assert "demo" in [r["name"] for r in schema["recipes"]]
    reverse = next(o for o in schema["objectives"] if o["name"] == "reverse_kl")
    assert reverse["formula"] == "KL(student‖teacher)" and reverse["trainable"]
    assert [p["objectives"] for p in schema["parameters"] if p["name"] == "beta"] == [["jsd"]]
    assert api.get("/recipes")["total"] == len(schema["recipes"])


def test_telemetry_of_a_run(api: Api, run_id: str) -> None:
    steps = api.get(f"/runs/{run_id}/steps")
    assert steps["columns"]["step"] == [1, 2] and steps["last"] == 2
    assert steps["columns"]["reverse_kl"] == [0.5, 0.25]
    assert api.get(f"/runs/{run_id}/steps", after=1)["columns"]["step"] == [2]
    assert steps["not_finite"] == {}
    assert api.get(f"/runs/{run_id}/system") == {"columns": {}}  # a store of before has none
    evaluation = api.get(f"/runs/{run_id}/evaluations")["items"][0]
    assert (evaluation["suite"], evaluation["metric"], evaluation["value"]) == (
        "held-out",
        "pass@1",
        0.5,
    )
    rollouts = api.get(f"/runs/{run_id}/rollouts", sort="-kl_sum", limit=2, step=2)
    assert rollouts["total"] == 3 and len(rollouts["items"]) == 2
    sums = [item["kl_sum"] for item in rollouts["items"]]
    assert sums == sorted(sums, reverse=True)
    assert {"id", "step", "kind", "tokens"} <= set(rollouts["items"][0])
    hot = api.get(f"/runs/{run_id}/hot-tokens", limit=5)
    assert len(hot["items"]) == 5 and hot["total"] > 5
    assert hot["items"][0]["reverse_kl"] == pytest.approx(2.7)
    assert api("GET", f"/runs/{run_id}/rollouts", params={"sort": "-nope"}).status_code == 422


def unpacked(content: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    (length,) = struct.unpack_from("<I", content)
    header = json.loads(content[4 : 4 + length])
    start = 4 + length
    columns = {
        c["name"]: np.frombuffer(
            content[start + c["offset"] : start + c["offset"] + c["length"]], c["dtype"]
        )
        for c in header["columns"]
    }
    return header, columns


def test_the_tokens_of_a_rollout(api: Api, run_id: str) -> None:
    rollout_id = first_rollout(api, run_id)
    assert api.get(f"/rollouts/{rollout_id}")["run_id"] == run_id
    answer = api("GET", f"/rollouts/{rollout_id}/tokens")
    assert answer.headers["content-type"] == "application/octet-stream"
    header, columns = unpacked(answer.content)
    assert header["n"] == TOKENS
    want = rollout(2, 2).record
    assert columns["completion_ids"].tolist() == want.completion_ids.tolist()
    assert columns["prompt_ids"].tolist() == [1, 1]
    assert want.reverse_kl is not None
    assert columns["reverse_kl"].tolist() == want.reverse_kl.tolist()
    assert columns["teacher_rank"].tolist() == list(range(TOKENS))
    assert "advantages" not in columns
    assert header["texts"]["1"] == {"t": " but"}
    assert header["texts"]["0"] == {"t": "<end>", "s": True}
    assert header["texts"]["2"] == {"t": None, "b": "c3"}
    for column in header["columns"]:
        assert column["offset"] % np.dtype(column["dtype"]).itemsize == 0
    etag = answer.headers["etag"]
    again = api("GET", f"/rollouts/{rollout_id}/tokens", headers={"if-none-match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_alternatives_of_many_tokens_at_once(api: Api, run_id: str) -> None:
    rollout_id = first_rollout(api, run_id)
    items = api.get(f"/rollouts/{rollout_id}/topk", position=1, count=512)["items"]
    assert [item["position"] for item in items] == list(range(1, TOKENS))
    assert [a["id"] for a in items[0]["student"]] == [1, 3]
    assert items[0]["student"][0]["student_logprob"] == -0.5
    assert items[0]["student"][0]["teacher_logprob"] == -0.25
    assert items[0]["student"][0]["text"] == " but"
    for position in (TOKENS, 10**9):
        bad = api("GET", f"/rollouts/{rollout_id}/topk", params={"position": position})
        assert bad.status_code in (404, 422)


def test_a_damaged_record_is_named_and_others_stay(api: Api, run_id: str, engine: Engine) -> None:
    rollout_id = first_rollout(api, run_id)
    with engine.begin() as connection:
        of_rollout = token_record.c.rollout_id == rollout_id
        size = connection.scalar(select(func.length(token_record.c.reverse_kl)).where(of_rollout))
        zeros = update(token_record).where(of_rollout).values(reverse_kl=bytes(size))
        connection.execute(zeros)
    answer = api("GET", f"/rollouts/{rollout_id}/tokens")
    assert answer.status_code == 409 and answer.json()["kind"] == "damaged record"
    listed = api.get(f"/runs/{run_id}/rollouts")["items"]
    assert len(listed) == 6
    other = next(item["id"] for item in listed if item["id"] != rollout_id)
    assert api("GET", f"/rollouts/{other}/tokens").status_code == 200


def test_the_log_comes_in_pieces(api: Api, run_id: str, tmp_path: Path) -> None:
    assert api.get(f"/runs/{run_id}/log") == {"text": "", "next": 0, "size": 0}
    file = tmp_path / "runs" / run_id / "log.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes("0123456789abcdeé-end".encode() + b"\xff\xfe")
    first = api.get(f"/runs/{run_id}/log", offset=0, limit=16)
    assert first == {"text": "0123456789abcde", "next": 15, "size": 23}
    rest = api.get(f"/runs/{run_id}/log", offset=15)
    assert (rest["text"], rest["next"]) == ("é-end\ufffd\ufffd", 23)
    assert api.get(f"/runs/{run_id}/log", limit=16)["next"] == 23
    assert api.get(f"/runs/{run_id}/log", offset=10**9)["text"] == ""
    assert api("GET", "/runs/run-unknown/log").status_code == 404


def test_a_log_outside_the_folder_is_not_read(tmp_path: Path) -> None:
    outside = tmp_path / "log.txt"
    outside.write_text("secret")
    (tmp_path / "data" / "runs" / "run-ok").mkdir(parents=True)
    (tmp_path / "data" / "runs" / "run-ok" / "log.txt").write_text("fine")
    (tmp_path / "data" / "runs" / "run-link").symlink_to(tmp_path)
    files = LocalFiles(DataDir(tmp_path / "data"))
    assert files.log("run-ok") is not None
    for name in ("run-link", "../..", "/", str(tmp_path), "run-none"):
        assert files.log(name) is None


def test_what_is_not_there(api: Api) -> None:
    for path in (
        "/runs/run-x",
        "/runs/run-x/system",
        "/rollouts/roll-x",
        "/rollouts/roll-x/tokens",
        "/nope",
        "/runs/",
    ):
        answer = api("GET", path)
        assert answer.status_code == 404 and answer.json()["error"], path
    answer = api("PUT", "/runs", {})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")


def test_the_openapi_document_names_full_addresses(api: Api) -> None:
    document = api.get("/openapi.json")
    assert {"/api/v1/runs", "/api/v1/rollouts/{rollout_id}/tokens"} <= set(document["paths"])
    assert all(path.startswith("/api/v1/") for path in document["paths"])
    for path in ("/docs", "/redoc"):
        assert api("GET", path).status_code == 404


def test_a_foreign_id_is_of_nothing_here(api: Api) -> None:
    for path, kind in (
        ("/rollouts/77f3", "rollout: ids begin with roll-"),
        ("/runs/x", "run: ids"),
    ):
        answer = api("GET", path)
        assert answer.status_code == 422
        assert answer.json()["problems"][0]["message"].startswith(f"no such {kind}")


def test_health(api: Api, tmp_path: Path) -> None:
    health = api.get("/health")
    assert health["ok"] and health["supervisor"] is False and health["access"] == "none"
    lock = tmp_path / "supervisor.lock"
    lock.touch()
    assert api.get("/health")["supervisor"] is False
    with lock.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert api.get("/health")["supervisor"] is True
        assert api.get("/health")["supervisor"] is True
    assert api.get("/health")["supervisor"] is False


@pytest.mark.sqlite_only("SQLite's file is moved")
def test_a_directory_that_has_gone_takes_no_runs_and_is_not_healthy(
    api: Api, tmp_path: Path
) -> None:
    database = tmp_path / "studio.db"
    database.rename(tmp_path / "elsewhere.db")
    health = api.get("/health")
    assert not health["ok"] and "was moved, deleted or unmounted" in health["reason"]
    answer = api("POST", "/runs", {"recipe": "demo"})
    assert answer.status_code == 503 and answer.json()["kind"] == "directory gone"
    (tmp_path / "elsewhere.db").rename(database)
    assert api.get("/health")["ok"]


def test_importing_the_server_loads_neither_torch_nor_gradio() -> None:
    program = (
        "import sys, app.server\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft', 'gradio', 'plotly'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_building_the_server_leaves_torch_unloaded(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from app.server import ServerOptions, build\n"
        "from storage.data_dir import DataDir\n"
        "from storage.engine import open_database\n"
        "folder = Path(sys.argv[1])\n"
        "build(open_database(folder), ServerOptions(data_dir=DataDir(folder), token='t'))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'peft'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_of_two_people_who_edit_the_second_is_told_what_the_first_wrote(
    api: Api, engine: Engine
) -> None:
    run_id = jobs.create_run(engine, parse({}), tags=("a",))
    version = api.get(f"/runs/{run_id}")["version"]
    path, seen = f"/runs/{run_id}", {"If-Match": f'"{version}"'}
    first = api("PATCH", path, {"name": "hers", "add_tags": ["b"]}, headers=seen).json()
    assert (first["name"], first["tags"], first["version"]) == ("hers", ["a", "b"], version + 1)
    reply = api("PATCH", path, {"name": "his", "remove_tags": ["a"]}, headers=seen)
    assert reply.status_code == 409
    refusal = reply.json()
    assert refusal["kind"] == "stale edit" and "edited by somebody else" in refusal["error"]
    assert refusal["current"] == {
        **{"version": version + 1, "name": "hers", "notes": ""},
        "tags": ["a", "b"],
    }
    assert api.get(path)["name"] == "hers"
    for header in (str(version + 1), f'W/"{version + 1}"', "*"):
        assert api("PATCH", path, {"name": "hers"}, headers={"If-Match": header}).json() == first
    assert api("PATCH", path, {"notes": "n"}).status_code == 200  # as ever, without the header
    for header in ("", "x", "-1", '"1", "2"', "9" * 30):
        assert api("PATCH", path, {"name": "x"}, headers={"If-Match": header}).status_code == 422
    for body in (
        {"tags": ["x"], "add_tags": ["y"]},
        {"add_tags": ["y"], "remove_tags": ["y"]},
        {"add_tags": [f"t{n}" for n in range(49)]},
        {"name": "a\nb"},
        {"add_tags": ["\x1b[31m"]},
    ):
        assert api("PATCH", path, body).status_code == 422, body
    assert api.get(path)["name"] == "hers" and api.get(path)["tags"] == ["a", "b"]
    started = api("POST", "/runs", {"recipe": "demo", "name": "a\tb"})
    assert started.status_code == 422 and "control characters" in started.text
    assert api("POST", "/config/check", {"config": {"name": "a\tb"}}).json()["problems"] == [
        {
            "field": "name",
            "message": "must not hold control characters (U+0009 is character 2): remove it",
            "line": 1,
        }
    ]


def test_a_running_run_s_gpu(
    api: Api, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_routes, "GPU_AGE", 1e-9)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_driver(tmp_path, monkeypatch, "0, GPU-a, NVIDIA H100, 80000, 20000, 97")
    run_id = jobs.create_run(engine, parse({}))
    nothing = {"slot": None, "name": None, "total": None, "free": None, "use": None}
    assert api.get(f"/runs/{run_id}/gpu") == nothing
    attempt = jobs.claim(engine, run_id, "cuda:0", me())
    assert attempt is not None
    assert api.get(f"/runs/{run_id}/gpu") == {
        **{"slot": "cuda:0", "name": "NVIDIA H100", "use": 97.0},
        **{"total": 80000 * 2**20, "free": 20000 * 2**20},
    }
    other = jobs.create_run(engine, parse({"device": "cuda"}))
    monkeypatch.setattr("app.worker.devices.holds.gpu_count", lambda: 1)
    assert api.get(f"/runs/{other}")["waits_for"] == {"cuda:0": run_id}
    assert api.get(f"/runs/{run_id}")["waits_for"] == {}
    jobs.finish(engine, run_id, attempt, "finished")
    assert api.get(f"/runs/{run_id}/gpu") == nothing
    assert api.get(f"/runs/{other}")["waits_for"] == {}
    processor = jobs.create_run(engine, parse({}))
    assert jobs.claim(engine, processor, "cpu", me())
    assert api.get(f"/runs/{processor}/gpu") == nothing | {"slot": "cpu"}


def test_a_run_is_resumed_with_other_settings_of_memory(api: Api, engine: Engine) -> None:
    run_id = jobs.create_run(engine, parse({}))
    attempt = jobs.claim(engine, run_id, "cpu", me())
    assert attempt is not None and jobs.finish(engine, run_id, attempt, "failed")
    refused = api("POST", f"/runs/{run_id}/resume", {"set": ["seed=1"]})
    assert refused.status_code == 422 and "cannot change within a run" in refused.json()["error"]
    assert api.get(f"/runs/{run_id}")["status"] == "failed"
    changed = {"set": ["sampling.batch_size=8", "device=cpu"]}
    assert api("POST", f"/runs/{run_id}/resume", changed).json()["status"] == "queued"
    run = api.get(f"/runs/{run_id}")
    assert (run["config"]["sampling"]["batch_size"], run["device"]) == (8, "cpu")
