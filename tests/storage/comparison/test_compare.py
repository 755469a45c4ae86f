"""Runs side by side, against numbers worked out by hand."""

import csv
import io
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from opd.config.run import parse
from opd.errors import UserError
from opd.types import EvaluationEvent, Score, StepEvent
from storage.comparison import curves
from storage.comparison.compare import ComparisonQuery, comparison
from storage.comparison.curves import Curve
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.disk import KEPT_SECONDS, disk_use
from storage.read.rollouts import read_rollout
from storage.read.runs import read_run, read_steps
from storage.write.records import RunWriter
from tests.support.api_client import Api
from tests.support.databases.matrix import new_database
from tests.support.stored_runs import OWNER, rollout, started, texts

SECONDS = {"sample": 0.5, "teacher": 0.25}


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return new_database(tmp_path)


def a_run(engine: Engine, scores: dict[int, float], kls: list[float], **config: Any) -> str:
    """Steps of 100·number tokens and 1e9 FLOPs; scores by step."""
    run_id = jobs.create_run(engine, parse({"steps": len(kls), **config}))
    attempt = jobs.claim(engine, run_id, run_id, OWNER)
    assert attempt is not None
    store = RunWriter(engine, run_id, attempt)
    for step in range(len(kls) + 1):
        if step:
            kept = [rollout(step, group) for group in range(2)]
            metrics = {"reverse_kl": kls[step - 1]}
            store.step(StepEvent(step, SECONDS, 100 * step, 1e9, metrics, kept), texts)
        if step in scores:
            score = Score("heldout", "pass@1", scores[step], 50, 0.05)
            store.evaluation(EvaluationEvent(step, [score]), texts)
    jobs.finish(engine, run_id, attempt, "finished")
    return run_id


def curve(values: list[float | None], steps: list[int] | None = None) -> Curve:
    at = [float(s) for s in steps or range(len(values))]
    return Curve({"step": at, "tokens": [s * 10 for s in at], "flops": at, "seconds": at}, values)


def test_smoothing_is_the_debiased_moving_average() -> None:
    # t=1: 0.5·4/(1−0.5) = 4;  t=2: (0.5·2 + 0.5·2)/(1−0.25) = 8/3;  t=3: (1 + 4)/(1−0.125) = 40/7
    assert curves.smoothed([4.0, 2.0, None, 8.0], 0.5) == [
        pytest.approx(4),
        pytest.approx(8 / 3),
        None,
        pytest.approx(40 / 7),
    ]
    values = [3.0, None, 1.0]
    assert curves.smoothed(values, 0.0) == values
    assert curves.smoothed([math.nan, 2.0], 0.9) == [None, pytest.approx(2)]
    assert curves.smoothed([5.0] * 4, 0.99) == [pytest.approx(5)] * 4


def test_reach_takes_the_first_point_or_the_line_between() -> None:
    rising = curve([0.2, 0.4, None, 0.8, 0.6], [0, 4, 6, 8, 12])
    reached = curves.reach(rising, 0.5, "at_least")
    assert reached == {"step": 8, "tokens": 80, "flops": 8, "seconds": 8}
    between = curves.reach(rising, 0.5, "at_least", interpolate=True)
    assert between is not None and between["step"] == pytest.approx(5)  # 4 + (0.5−0.4)/0.4 · 4
    assert curves.reach(rising, 0.2, "at_least", interpolate=True) == curves.reach(
        rising, 0.1, "at_least"
    )
    assert curves.reach(rising, 0.81, "at_least") is None
    falling = curve([0.5, 0.1, 0.3])
    assert curves.reach(falling, 0.2, "at_most") == {
        "step": 1, "tokens": 10, "flops": 1, "seconds": 1
    }  # fmt: skip
    assert curves.reach(curve([None, None]), 0.0, "at_least") is None


def test_the_common_target_is_the_worst_of_the_best() -> None:
    lines = [curve([0.2, 0.9, 0.7]), curve([0.3, 0.6]), curve([None])]
    assert curves.common_target(lines, "at_least") == 0.6
    assert curves.common_target(lines, "at_most") == 0.3
    assert curves.common_target([curve([])], "at_least") is None


def test_bands_of_seeds_by_hand() -> None:
    lines = [curve([1.0, 4.0]), curve([2.0, 6.0]), curve([6.0])]
    ranged = curves.mean_curve(lines, "range")
    assert ranged["values"] == [3.0, 5.0]
    assert (ranged["low"], ranged["high"], ranged["n"]) == ([1.0, 4.0], [6.0, 6.0], [3, 2])
    errors = curves.mean_curve(lines, "standard_error")
    # deviations −2, −1, 3: variance 14/2 = 7, error √(7/3); −1, 1: variance 2, error 1
    assert errors["low"] == [pytest.approx(3 - math.sqrt(7 / 3)), pytest.approx(4)]
    assert errors["high"] == [pytest.approx(3 + math.sqrt(7 / 3)), pytest.approx(6)]
    alone = curves.mean_curve([curve([1.0])], "standard_error")
    assert (alone["low"], alone["high"]) == ([None], [None])


def test_differences_name_only_what_differs() -> None:
    listed = curves.differences(
        {
            "a": {"steps": 3, "optimizer": {"lr": 0.1, "clip": None}, "list": [1], "extra": {}},
            "b": {"steps": 3, "optimizer": {"lr": 0.2, "clip": None}, "list": [1, 2], "flag": 1},
        }
    )
    assert listed["equal"] == 2  # steps, optimizer.clip
    assert {f["field"]: (f["values"]["a"], f["values"]["b"]) for f in listed["fields"]} == {
        "optimizer.lr": (0.1, 0.2),
        "list": ([1], [1, 2]),
        "extra": ({}, None),
        "flag": (None, 1),
    }
    assert curves.differences({"a": {"x": True}, "b": {"x": 1}})["fields"]


def test_a_long_curve_keeps_its_ends() -> None:
    places = curves.thinned(100_000)
    assert len(places) <= curves.MAX_POINTS
    assert (places[0], places[-1]) == (0, 99_999)
    assert curves.thinned(3) == [0, 1, 2]


def test_cost_of_a_threshold_and_its_ratio(engine: Engine) -> None:
    fast = a_run(engine, {0: 0.2, 2: 0.7, 4: 0.9}, [0.9, 0.5, 0.3, 0.2], seed=1)
    slow = a_run(engine, {0: 0.2, 2: 0.3, 4: 0.7}, [0.9, 0.8, 0.6, 0.5], seed=2)
    never = a_run(engine, {0: 0.2, 4: 0.4}, [0.9] * 4, optimizer={"learning_rate": 1e-9})
    answer = comparison(engine, ComparisonQuery([fast, slow, never], x="seconds", target=0.6))
    [a, b, c] = answer["reach"]["items"]
    assert a["costs"]["step"] == 2 and a["costs"]["tokens"] == 100 + 200
    assert a["costs"]["flops"] == 2e9
    assert a["costs"]["seconds"] == pytest.approx(2 * 0.75, abs=0.5)  # and the time to store
    assert b["costs"]["step"] == 4 and b["costs"]["tokens"] == 1_000
    assert b["ratio"]["step"] == 2 and b["ratio"]["tokens"] == pytest.approx(10 / 3)
    assert (c["reached"], c["costs"]) == (False, None)
    assert c["ratio"] == dict.fromkeys(curves.AXES)
    assert [item["best"] for item in (a, b, c)] == [0.9, 0.7, 0.4]
    other = comparison(engine, ComparisonQuery([fast, slow], target=0.6, baseline=slow))
    assert other["reach"]["items"][0]["ratio"]["step"] == 0.5
    assert comparison(engine, ComparisonQuery([fast, slow]))["reach"]["target"] == 0.7


def test_low_is_good_for_the_kl(engine: Engine) -> None:
    fast = a_run(engine, {}, [0.9, 0.5, 0.3, 0.2])
    slow = a_run(engine, {}, [0.9, 0.8, 0.6, 0.5])
    reach = comparison(engine, ComparisonQuery([fast, slow], metric="reverse_kl"))["reach"]
    assert (reach["direction"], reach["target"]) == ("at_most", 0.5)
    assert [item["costs"]["step"] for item in reach["items"]] == [2, 4]
    forced = comparison(engine, ComparisonQuery([fast], metric="reverse_kl", direction="at_least"))
    assert forced["reach"]["target"] == 0.9


def test_seeds_are_grouped_and_other_settings_are_not(engine: Engine) -> None:
    first = a_run(engine, {0: 0.2, 2: 0.6}, [0.8, 0.4], seed=1, name="one")
    second = a_run(engine, {0: 0.4, 2: 0.8}, [0.6, 0.2], seed=2, name="two")
    other = a_run(engine, {0: 0.1, 2: 0.2}, [0.6, 0.2], seed=1, sampling={"temperature": 0.5})
    answer = comparison(engine, ComparisonQuery([first, other, second], target=0.7))
    assert [(g["runs"], g["seeds"]) for g in answer["groups"]] == [
        ([first, second], [1, 2]),
        ([other], [1]),
    ]
    group = answer["charts"][0]["groups"][0]
    assert group["x"] == [0, 2] and group["n"] == [2, 2]
    assert group["y"] == [pytest.approx(0.3), pytest.approx(0.7)]
    assert (group["low"], group["high"]) == ([0.2, 0.6], [0.4, 0.8])
    assert answer["reach"]["groups"][0]["n"] == 2
    assert answer["reach"]["groups"][0]["reached"] == 1
    fields = {f["field"] for f in answer["differences"]["fields"]}
    assert fields == {"name", "seed", "sampling.temperature"}


def test_waiting_is_no_training_time(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id = a_run(engine, {}, [0.5, 0.4])
    answer = comparison(engine, ComparisonQuery([run_id], x="seconds", metric="reverse_kl"))
    stored = read_steps(engine, run_id)["columns"]
    phases = [name for name in stored if name.startswith("seconds_")]
    by_step = [math.fsum(stored[name][i] for name in phases) for i in range(2)]
    assert answer["charts"][0]["curves"][0]["x"] == pytest.approx([by_step[0], sum(by_step)])
    assert by_step[0] >= 0.75


def test_shared_prompts_with_the_newest_rollout_of_each(api: Api, engine: Engine) -> None:
    first, second = (a_run(engine, {}, [0.5, 0.4], seed=s) for s in (1, 2))
    shared = api.get("/compare/prompts", runs=f"{first},{second}")
    assert shared["total"] == 2  # the groups 0 and 1, in every step
    for item in shared["items"]:
        assert set(item["rollouts"]) == {first, second}
        for run_id, newest in item["rollouts"].items():
            assert newest["step"] == 2 and newest["run_id"] == run_id
            stored = read_rollout(engine, newest["id"])
            assert stored["prompt"] == item["prompt"] and stored["answer"] == item["answer"]
    alone = a_run(engine, {}, [0.5])
    page = api.get("/compare/prompts", runs=f"{first},{alone}", limit=1, offset=1)
    assert (page["total"], len(page["items"])) == (2, 1)


def test_first_answers_scored_again_are_not_the_newest(api: Api, engine: Engine) -> None:
    run_id, writer = started(engine)
    fresh = rollout(0, 5, kind="eval")
    for step in (0, 4):
        again = replace(fresh, step=step, kind="probe", sample=0)
        writer.evaluation(EvaluationEvent(step, [], [again, *([] if step else [fresh])]), texts)
    [item] = api.get("/compare/prompts", runs=run_id)["items"]
    assert (item["rollouts"][run_id]["kind"], item["rollouts"][run_id]["step"]) == ("eval", 0)


def test_disk_is_walked_and_kept_for_a_while(
    api: Api, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = a_run(engine, {}, [0.5])
    run, now = DataDir(tmp_path).run(run_id), time.monotonic()
    folder = run.path
    (folder / "checkpoints" / "step-1").mkdir(parents=True)
    (folder / "checkpoints" / "step-1" / "model").write_bytes(b"x" * 1_000)
    (folder / "log.txt").write_bytes(b"x" * 30)
    outside = tmp_path / "outside"
    outside.write_bytes(b"x" * 9_999)
    os.symlink(outside, folder / "link")
    os.symlink(tmp_path, folder / "up")
    sizes = {"checkpoints": 1_000, "other": 30, "files": 1_030}
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert disk_use(run) == sizes
    (folder / "log.txt").write_bytes(b"x" * 50)
    monkeypatch.setattr(time, "monotonic", lambda: now + KEPT_SECONDS - 1)
    assert disk_use(run) == sizes
    monkeypatch.setattr(time, "monotonic", lambda: now + KEPT_SECONDS)
    assert disk_use(run)["files"] == 1_050
    monkeypatch.undo()
    assert disk_use(DataDir(tmp_path).run("run-none")) == {"checkpoints": 0, "other": 0, "files": 0}
    assert "disk" in api.get("/runs")["items"][0]
    assert set(api.get(f"/runs/{run_id}")["disk"]) == {"checkpoints", "other", "files"}


def test_the_table_as_csv(api: Api, engine: Engine) -> None:
    fast = a_run(engine, {0: 0.2, 2: 0.7}, [0.9, 0.5], name="=HYPERLINK(1)")
    slow = a_run(engine, {0: 0.2, 2: 0.3}, [0.9, 0.8])
    reply = api("GET", "/compare.csv", params={"runs": f"{fast},{slow}", "target": 0.6})
    assert reply.headers["content-type"].startswith("text/csv")
    [a, b] = csv.DictReader(io.StringIO(reply.text))
    assert a["name"] == "'=HYPERLINK(1)"
    assert (a["reached"], a["step_to_target"], a["tokens_to_target"]) == ("True", "2.0", "300.0")
    assert (b["reached"], b["step_to_target"], b["step_ratio"]) == ("False", "", "")
    assert a["record_bytes"] == str(read_run(engine, fast)["bytes"])


def test_bad_questions_are_refused_with_the_field(api: Api, engine: Engine) -> None:
    run_id = a_run(engine, {}, [0.5])
    many = ",".join(f"run-{n}" for n in range(13))
    for query, status, said in (
        ({"runs": "../x"}, 422, "runs"),
        ({"runs": many}, 422, "1 to 12 runs (got 13)"),
        ({"runs": "run-unknown"}, 404, "run-unknown"),
        ({"runs": run_id, "metric": "no such"}, 422, "metric"),
        ({"runs": run_id, "x": "hours"}, 422, "x"),
        ({"runs": run_id, "smoothing": 1}, 422, "smoothing"),
        ({"runs": run_id, "target": "nan"}, 422, "target"),
        ({"runs": run_id, "baseline": "run-other"}, 422, "baseline"),
    ):
        for path in ("/compare", "/compare.csv"):
            reply = api("GET", path, params=query)
            assert reply.status_code == status, reply.text
            assert said in reply.text and "Traceback" not in reply.text
    with pytest.raises(UserError, match="1 to 12"):
        comparison(engine, ComparisonQuery([]))


def test_a_run_without_figures_compares_as_empty(api: Api, engine: Engine) -> None:
    waiting = jobs.create_run(engine, parse({}))
    answer = api.get("/compare", runs=waiting, second="reverse_kl")
    assert answer["reach"]["target"] is None
    assert answer["charts"][0]["curves"][0]["y"] == []
    assert answer["differences"]["fields"] == []
