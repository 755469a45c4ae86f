"""What a writer stores, replaces and refuses."""

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, func, select, text

from opd.config.run import parse
from opd.types import CheckpointEvent, EvaluationEvent, Rollout, Score, StepEvent, TokenRecord
from storage import schema
from storage.engine import read
from storage.insights.hot_tokens import read_hot_tokens
from storage.queue import jobs
from storage.read.export import export_rows
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_evaluations, read_run, read_runs, read_steps
from storage.read.tokens import read_tokens
from storage.write.imports import import_rollouts
from storage.write.records import RunWriter
from tests.support import stored_runs

TIMED = ("created_at", "started_at", "attempt_at", "heartbeat_at", "queued_at", "finished_at")


def telemetry(engine: Engine, run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Everything stored about a run's training, without times and the run's own id."""
    tables = (
        schema.run,
        *(schema.step, schema.evaluation, schema.prompt, schema.rollout),
        *(schema.token_record, schema.hot_token, schema.checkpoint),
    )
    skip = {*TIMED, "attempt", "seconds", "status"}
    cells = {}
    with read(engine) as connection:
        for table in tables:
            rows = [
                {name: value for name, value in row.items() if name not in skip}
                for row in connection.execute(select(table)).mappings()
            ]
            for row in rows:
                if "figures" in row:
                    figures = row["figures"].items()
                    row["figures"] = {k: v for k, v in figures if not k.startswith("seconds_")}
            cells[table.name] = sorted(
                (row for row in rows if run_id.removeprefix("run-") in str(row)), key=str
            )
    return cells


def test_a_step_is_stored_whole(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine, steps=10)
    assert writer.step(stored_runs.step_event(1), stored_runs.texts) > 0
    writer.step(stored_runs.step_event(2, score=0.5, broken=float("nan")), stored_runs.texts)
    steps = read_steps(engine, run_id)
    columns = steps["columns"]
    assert steps["last"] == 2
    assert columns["step"] == [1, 2]
    assert columns["reverse_kl"] == [1.0, 0.5]
    assert columns["score"] == [None, 0.5]
    assert columns["broken"] == [None, None]
    assert columns["seconds_sample"] == [0.5, 0.5]
    assert all(seconds > 0 for seconds in columns["seconds_store"])
    assert read_steps(engine, run_id, after=1)["columns"]["step"] == [2]
    run = read_run(engine, run_id)
    assert (run["step"], run["kl"], run["tokens"], run["flops"]) == (2, 0.5, 200, 2e9)
    assert run["progress"] == 0.2
    assert run["bytes"] > 0


def test_sums_of_a_rollout_by_hand(engine: Engine) -> None:
    """A token of mask 0 and one that is not finite do not count."""
    run_id, writer = stored_runs.started(engine, records={"hot_tokens": 2})

    def nats(*values: float) -> Any:
        return np.array(values, np.float32)

    record = TokenRecord(
        completion_ids=np.array([5, 6, 7, 8]),
        student_logprobs=nats(-1, -2, -3, -0.5),
        teacher_logprobs=nats(-2, -9, -np.inf, -0.25),
        reverse_kl=nats(0.5, 8, np.nan, 0.125),
        mask=nats(1, 0, 1, 1),
    )
    rollout = stored_runs.rollout(record=record, reward=1.0)
    writer.step(StepEvent(1, {}, 4, 0.0, {}, [rollout]), stored_runs.texts)
    item = read_rollouts(engine, run_id)["items"][0]
    assert item["tokens"] == 4
    assert item["kl_sum"] == 0.625
    assert item["kl_mean"] == 0.3125
    assert item["kl_max"] == 0.5
    assert item["log_ratio_sum"] == 1 - 0.25
    assert item["student_logprob_sum"] == -4.5
    hot = read_hot_tokens(engine, run_id)["items"]
    assert [(token["position"], token["reverse_kl"]) for token in hot] == [(0, 0.5), (3, 0.125)]
    scales = read_run(engine, run_id)["scales"]
    assert scales == {
        "log_ratio": 1.0,
        "reverse_kl": 0.5,
        "student_surprise": 3.0,
        "teacher_surprise": 2.0,
    }


def test_without_scores_there_are_no_sums_and_no_hot_tokens(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    bare = stored_runs.rollout(record=TokenRecord(np.array([5, 6])), reward=None)
    empty = stored_runs.rollout(group=1, record=TokenRecord(np.array([], np.int64)), answer=None)
    writer.step(StepEvent(1, {}, 2, 0.0, {}, [bare, empty]), stored_runs.texts)
    items = read_rollouts(engine, run_id, sort="tokens")["items"]
    assert [item["tokens"] for item in items] == [0, 2]
    assert all(item["kl_sum"] is None and item["log_ratio_sum"] is None for item in items)
    assert read_hot_tokens(engine, run_id)["total"] == 0
    assert read_tokens(engine, items[0]["id"]).n == 0


def test_log_ratio_stands_in_where_there_is_no_reverse_kl(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine, records={"hot_tokens": 1})
    record = TokenRecord(
        completion_ids=np.array([5, 6, 7]),
        student_logprobs=np.array([-1, -4, -1], np.float32),
        teacher_logprobs=np.array([-2, -1, -1], np.float32),
    )
    writer.step(
        StepEvent(1, {}, 3, 0.0, {}, [stored_runs.rollout(record=record)]), stored_runs.texts
    )
    (hot,) = read_hot_tokens(engine, run_id)["items"]
    assert (hot["position"], hot["heat"], hot["log_ratio"]) == (1, 3.0, -3.0)
    assert hot["reverse_kl"] is None


def test_evaluations_give_the_score_at_the_start_and_now(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    writer.evaluation(stored_runs.evaluation_event(0, 0.25), stored_runs.texts)
    writer.step(stored_runs.step_event(1), stored_runs.texts)
    writer.evaluation(stored_runs.evaluation_event(1, 0.75), stored_runs.texts)
    run = read_run(engine, run_id)
    assert (run["score_start"], run["score"], run["score_suite"]) == (0.25, 0.75, "held-out")
    items = read_evaluations(engine, run_id)["items"]
    assert [(item["step"], item["suite"], item["value"]) for item in items] == [
        (0, "held-out", 0.25),
        (0, "held-out greedy", 0.125),
        (1, "held-out", 0.75),
        (1, "held-out greedy", 0.375),
    ]
    kept = read_rollouts(engine, run_id, kind="eval", limit=10)
    assert kept["total"] == 4  # the same prompt at two temperatures, twice
    assert len({item["id"] for item in kept["items"]}) == 4


def test_a_repeated_evaluation_replaces_the_first(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    first_look = replace(stored_runs.evaluation_event(0, 0.0), scores=[])
    writer.evaluation(first_look, stored_runs.texts)
    assert read_rollouts(engine, run_id)["total"] == 2
    assert read_run(engine, run_id)["score"] is None
    for value in (0.1, 0.2):
        writer.evaluation(stored_runs.evaluation_event(0, value), stored_runs.texts)
    assert read_run(engine, run_id)["score_start"] == 0.2
    assert read_evaluations(engine, run_id)["total"] == 2
    assert read_rollouts(engine, run_id)["total"] == 2


def test_a_resumed_run_is_as_an_uninterrupted_one(engine: Engine) -> None:
    """Killed after step 5 and resumed from the checkpoint of step 3: no trace is left of it."""
    run_id, writer = stored_runs.started(engine, steps=6)

    def train(writer: RunWriter, steps: range, metric: float) -> None:
        for step in steps:
            writer.step(stored_runs.step_event(step, m=metric), stored_runs.texts)
            if step % 3 == 0:
                event = CheckpointEvent(step, f"/c/{step}", {"f": "0" * 64}, keeps=(step - 3,))
                writer.checkpoint(event)
                writer.evaluation(stored_runs.evaluation_event(step, metric), stored_runs.texts)

    train(writer, range(1, 7), 1.0)
    expected = telemetry(engine, run_id)
    assert jobs.finish(engine, run_id, 1, "interrupted")
    attempt = jobs.claim(engine, run_id, "cpu", stored_runs.OWNER)
    assert attempt == 2
    second = RunWriter(engine, run_id, attempt)
    second.truncate_after(3)
    assert telemetry(engine, run_id) == expected  # nothing goes before its replacement is there
    second.step(stored_runs.step_event(4, m=1.0), stored_runs.texts)
    assert read_steps(engine, run_id)["columns"]["step"] == [1, 2, 3, 4]
    assert read_run(engine, run_id)["tokens"] == 400
    assert read_rollouts(engine, run_id, step=6)["total"] == 0
    assert [c["step"] for c in read_run(engine, run_id)["checkpoints"]] == [3]
    train(second, range(5, 7), 1.0)
    assert telemetry(engine, run_id) == expected


def test_a_repeated_step_replaces_the_first(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    writer.evaluation(stored_runs.evaluation_event(1, 0.5), stored_runs.texts)
    writer.step(stored_runs.step_event(1, rollouts=6), stored_runs.texts)
    writer.step(stored_runs.step_event(1, rollouts=2), stored_runs.texts)
    assert read_rollouts(engine, run_id, kind="train")["total"] == 2
    assert read_rollouts(engine, run_id, kind="eval")["total"] == 2
    assert read_run(engine, run_id)["tokens"] == 100


def test_a_writer_that_lost_its_lease_writes_nothing(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1), stored_runs.texts)
    jobs.finish(engine, run_id, 1, "interrupted")
    jobs.claim(engine, run_id, "cpu", stored_runs.OWNER)
    before = telemetry(engine, run_id)
    writer.truncate_after(0)
    for write in (
        lambda: writer.step(stored_runs.step_event(2), stored_runs.texts),
        lambda: writer.evaluation(stored_runs.evaluation_event(2, 0.5), stored_runs.texts),
        lambda: writer.checkpoint(CheckpointEvent(2, "/c", {})),
    ):
        with pytest.raises(jobs.LeaseLost):
            write()
    assert telemetry(engine, run_id) == before


def test_checkpoints_that_do_not_stay_are_forgotten(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    for step, keeps in ((1, ()), (2, (1,)), (3, (1, 2)), (4, (1, 3)), (4, (1, 3, 4))):
        event = CheckpointEvent(step, f"/c/{step}", {"model.safetensors": "ab"}, keeps)
        writer.checkpoint(event)
    saved = read_run(engine, run_id)["checkpoints"]
    assert [(c["step"], c["path"]) for c in saved] == [(1, "/c/1"), (3, "/c/3"), (4, "/c/4")]
    assert saved[0]["manifest"] == {"model.safetensors": "ab"}


def test_a_step_keeps_its_share_of_the_budget(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine, steps=8, records={"budget_mb": 1, "top_k": 0})
    rollouts = [
        stored_runs.rollout(1, group, record=stored_runs.record(1000, k=0, seed=group))
        for group in range(9)
    ]
    writer.step(StepEvent(1, {}, 9000, 0.0, {}, rollouts), stored_runs.texts)
    assert read_rollouts(engine, run_id)["total"] == 3  # of 100 kB each at about 32 kB
    assert read_run(engine, run_id)["bytes"] <= 1e6 / 10
    assert read_run(engine, run_id)["tokens"] == 9000


def test_the_vocabulary_is_asked_once_for_an_id(engine: Engine) -> None:
    requests: list[int] = []

    def texts(ids: Collection[int]) -> dict[int, tuple[bytes, bool]]:
        requests.extend(ids)
        return stored_runs.texts(ids)

    _, writer = stored_runs.started(engine)
    _, other = stored_runs.started(engine, slot="cuda:0")  # loaded before anything is stored
    for step in (1, 2, 3):
        writer.step(stored_runs.step_event(step), texts)
    assert len(requests) == len(set(requests)) > 100
    assert 3 in requests  # of a prompt
    other.step(stored_runs.step_event(1), stored_runs.texts)  # the same ids again
    with read(engine) as connection:
        count = connection.scalar(select(func.count()).select_from(schema.vocabulary))
    assert count == len(requests)


def test_hostile_text_is_stored_as_it_is(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    hostile = "<img onerror=x> ${1} \x00 \u202e '; DROP TABLE rollout; --"
    rollout = stored_runs.rollout(prompt=hostile, completion=hostile + "\udfff")
    writer.step(StepEvent(1, {}, 1, 0.0, {}, [rollout]), stored_runs.texts)
    item = read_rollouts(engine, run_id)["items"][0]
    assert (item["prompt"], item["completion"]) == (hostile, hostile + "?")


def test_not_finite_figures_are_stored_as_none(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    nan = float("nan")
    writer.evaluation(EvaluationEvent(0, [Score("s", "pass@1", nan, 1, nan)]), stored_runs.texts)
    rollout = stored_runs.rollout(reward=float("inf"))
    writer.step(StepEvent(1, {}, 1, 0.0, {"reverse_kl": nan}, [rollout]), stored_runs.texts)
    stored = (read_run(engine, run_id), read_rollouts(engine, run_id))
    json.dumps(stored, allow_nan=False)
    assert stored[0]["score"] is None and stored[0]["kl"] is None


def imported(engine: Engine) -> str:
    return jobs.create_run(engine, parse({"name": "elsewhere"}), source="import")


def test_an_import_is_seen_only_once_it_is_whole(engine: Engine) -> None:
    run_id = imported(engine)
    seen = []

    def rollouts() -> Iterator[Rollout]:
        for group in range(150):
            seen.append(read_runs(engine)["total"])
            yield stored_runs.rollout(3, group, kind="import")

    assert jobs.next_queued(engine) == []
    assert import_rollouts(engine, run_id, rollouts(), stored_runs.texts) == 150
    assert set(seen) == {0}
    run = read_run(engine, run_id)
    assert (run["status"], run["source"], run["name"]) == ("finished", "import", "elsewhere")
    assert (run["step"], run["progress"], run["tokens"]) == (3, 1.0, 150 * 20)
    assert run["kl"] > 0 and run["bytes"] > 0 and run["scales"]["reverse_kl"] > 0
    assert read_rollouts(engine, run_id)["total"] == 150


def test_the_kl_of_an_import_is_the_mean_of_what_counts(engine: Engine) -> None:
    run_id = imported(engine)
    mask = np.array([1, 0, 0, 0], np.float32)
    kl = np.array([4, 9, 9, 9], np.float32)
    masked = stored_runs.rollout(
        kind="import", record=replace(stored_runs.record(4), reverse_kl=kl, mask=mask)
    )
    whole = stored_runs.rollout(
        kind="import", record=replace(stored_runs.record(2), reverse_kl=np.float32([1, 1]))
    )
    odd = np.full(20, 50, np.float32)
    branch = stored_runs.rollout(
        kind="branch", record=replace(stored_runs.record(), reverse_kl=odd)
    )
    import_rollouts(engine, run_id, [masked, whole, branch], stored_runs.texts)
    run = read_run(engine, run_id)
    assert run["kl"] == pytest.approx((4 + 1 + 1) / 3)
    assert run["scales"]["reverse_kl"] == 4
    assert read_hot_tokens(engine, run_id)["total"] == 3


def test_a_broken_import_leaves_nothing(engine: Engine) -> None:
    run_id = imported(engine)

    def rollouts() -> Iterator[Rollout]:
        for group in range(100):
            yield stored_runs.rollout(3, group, kind="import")
        raise ValueError("line 101")

    with pytest.raises(ValueError, match="line 101"):
        import_rollouts(engine, run_id, rollouts(), stored_runs.texts)
    with read(engine) as connection:
        for table in ("run", "rollout", "token_record", "hot_token", "prompt"):
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0


def test_the_same_rollout_twice_is_imported_twice(engine: Engine) -> None:
    run_id = imported(engine)
    import_rollouts(engine, run_id, [stored_runs.rollout(kind="import")] * 3, stored_runs.texts)
    items = read_rollouts(engine, run_id)["items"]
    assert len({item["id"] for item in items}) == 3


def test_texts_of_imported_tokens(engine: Engine) -> None:
    """Texts that agree become a vocabulary; those that contradict it stay with their rollout."""
    run_id = imported(engine)
    base = stored_runs.rollout(
        kind="import",
        prompt_ids=np.array([1, 2]),
        record=replace(stored_runs.record(3, k=0), completion_ids=np.array([7, 8, 7])),
    )
    agreeing = replace(base, prompt_tokens=["a", "b"], completion_tokens=[" x", " y", " x"])
    other = replace(base, sample=1, prompt_tokens=None, completion_tokens=[" x", " z", " x"])
    import_rollouts(engine, run_id, [agreeing, other])
    first, second = (
        read_tokens(engine, item["id"])
        for item in sorted(read_rollouts(engine, run_id)["items"], key=lambda i: i["sample"])
    )
    assert first.own_texts is None
    assert {i: entry["t"] for i, entry in first.texts.items()} == {
        1: "a",
        2: "b",
        7: " x",
        8: " y",
    }
    assert second.own_texts == {"prompt": None, "completion": [" x", " z", " x"]}
    exported = list(export_rows(engine, run_id))
    assert [row["completion_tokens"] for row in exported] == [
        [" x", " y", " x"],
        [" x", " z", " x"],
    ]
