"""Whole runs whose completions a vLLM server writes: a fake one that computes, and the real one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.worker.models import process
from storage.data_dir import DataDir
from storage.queue import requests
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_evaluations, read_steps
from storage.read.tokens import read_tokens
from tests.support import tiny_models
from tests.support.in_process_runs import JobRunner
from tests.support.network.fake_vllm import FakeVllm


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture
def runner(inputs: Path, tmp_path: Path) -> Iterator[JobRunner]:
    made = JobRunner(tmp_path / "data", inputs)
    yield made
    made.engine.dispose()


@pytest.fixture
def server(inputs: Path) -> Iterator[FakeVllm]:
    with FakeVllm(inputs / "student") as fake:
        yield fake


def queued(runner: JobRunner, url: str | None = None, **changes: Any) -> str:
    sampling = {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 6, "engine": "vllm"}
    address = {} if url is None else {"url": url}
    return runner.queue(sampling=sampling | address, device="cpu", **{"steps": 3, **changes})


def gaps(runner: JobRunner, run_id: str) -> dict[int, float]:
    """How far apart sampler and trainer were in each step, in nats."""
    columns = read_steps(runner.engine, run_id)["columns"]
    return dict(zip(columns["step"], columns["sampler_gap"], strict=True))


def test_a_run_is_trained_evaluated_and_resumed_with_the_weights_of_every_step(runner, server):
    run_id = queued(runner, server.url, evaluation={"prompts": 2, "every": 2, "keep": 1})
    server.faults.fails_at = "/update_weights:3"  # 1: at the start, 2: after the first step
    stopped = runner.attempt(run_id)
    assert (stopped["status"], stopped["error_kind"]) == ("failed", "sampling server")
    cause = f"sampling.url: the vLLM server at {server.url}: /update_weights: "
    assert stopped["error_text"].startswith(cause) and "vllm.txt" not in stopped["error_text"]
    assert runner.at_rest(run_id) == [1, 2]
    server.faults.fails_at = ""
    done = runner.attempt(run_id)
    assert done["status"] == "finished" and runner.at_rest(run_id) == [2, 3]
    assert max(gaps(runner, run_id).values()) < 1e-4 and {*gaps(runner, run_id)} == {1, 2, 3}
    assert "the same distribution, not the same samples" in runner.log(run_id)
    assert {e["step"] for e in read_evaluations(runner.engine, run_id)["items"]} == {0, 2, 3}
    assert server.version.endswith("-ended")


def test_an_adapter_is_trained_through_a_server_that_loads_them(runner, inputs):
    with FakeVllm(inputs / "student", transfer=None) as fake:
        run_id = queued(runner, fake.url, student={"lora": {"rank": 4}})
        assert runner.attempt(run_id)["status"] == "finished"
        assert max(gaps(runner, run_id).values()) < 1e-4
        assert "gets the adapter after every step" in runner.log(run_id)
        assert not fake.adapted


def test_what_a_server_cannot_do_ends_a_run_before_its_models_are_loaded(runner, inputs):
    with FakeVllm(inputs / "student", transfer="nccl") as fake:
        run_id = queued(runner, fake.url)
        attempt = runner.attempt(run_id)
    assert (
        attempt["status"] == "failed" and "by nccl, which is not supported" in attempt["error_text"]
    )
    assert "loading models" not in runner.log(run_id)


def what_if(runner: JobRunner, run_id: str) -> list[int]:
    """The ids of the student's greedy continuation of a rollout."""
    item = read_rollouts(runner.engine, run_id, sort="-tokens", kind="train", limit=1)["items"][0]
    payload = {
        **{"run": run_id, "rollout": item["id"], "checkpoint": 3, "position": 1, "token": 77},
        **{"text": None, "authors": ["student"], "samples": 1, "temperature": 0},
        **{"max_new_tokens": 8, "seed": 5},
    }
    name = requests.enqueue(runner.engine, "what-if", payload)
    process.serve(runner.engine, DataDir(runner.data_dir), 0.01)
    row = requests.read_request(runner.engine, name)
    assert row["state"] == "done", row
    view = read_tokens(runner.engine, row["answer"]["branches"][0], ("completion_ids",))
    return [int(i) for i in view.columns["completion_ids"]]


def test_what_if_asks_the_run_s_own_server_unless_another_run_has_it(runner, server, monkeypatch):
    monkeypatch.setattr(process, "_on_a_gpu", lambda: False)
    monkeypatch.setattr(process, "LOOK_EVERY", 0.01)
    run_id = queued(runner, server.url)
    assert runner.attempt(run_id)["status"] == "finished"
    server.requests.clear()
    by_server = what_if(runner, run_id)
    written = [b for path, b in server.requests if path == "/v1/completions" and "n" in b]
    assert len(written) == 1 and written[0]["max_tokens"] == 8
    assert server.version.endswith("-ended")
    server.version = "opd-0a0a0a0a-7"  # another run's, which has not ended
    server.requests.clear()
    assert what_if(runner, run_id) == by_server
    assert {path for path, _ in server.requests} == {"/weight_info", "/tokenize"}
    assert server.version == "opd-0a0a0a0a-7"
    assert not [*DataDir(runner.data_dir).run(run_id).path.glob("what-if/*")]
