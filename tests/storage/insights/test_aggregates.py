"""Aggregates over a run and its filtered worst tokens, against plain loops over exported rows."""

import math
import tracemalloc
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from bench.fill import fill_run
from opd.errors import UserError
from opd.types import StepEvent, TopK
from storage import schema
from storage.diagnosis.diagnose import diagnose
from storage.engine import begin
from storage.insights import selection
from storage.insights.hot_tokens import read_hot_tokens
from storage.insights.insights import Thresholds, read_insight, read_insights_overview
from storage.insights.selection import Where
from storage.insights.token_classes import class_of
from storage.insights.topk_aggregates import bounds
from storage.read.export import export_rows
from storage.read.rollouts import read_rollouts
from tests.support import stored_runs
from tests.support.api_client import Api

Token = dict[str, Any]
TOKENS = 12


def varied(step: int, group: int) -> Any:
    """Rollouts that differ in what they lack: masks, top-k, entropies, advantages, the KL."""
    made = stored_runs.rollout(step, group)
    random = np.random.default_rng(100 * step + group)
    record = stored_runs.record(TOKENS + group, seed=100 * step + group)
    n = len(record)
    record = replace(record, advantages=random.normal(0, 2, n).astype(np.float32))
    if group % 3 == 1:
        record = replace(record, mask=(random.random(n) > 0.3).astype(np.float32))
    if group == 2:
        record = replace(record, reverse_kl=None)
    if group == 3:
        record = replace(record, student_entropy=None, student_topk=None)
    if group == 4:
        record = replace(record, advantages=None, mask=None)
    if group == 5:
        assert record.reverse_kl is not None
        record.reverse_kl[3] = np.nan
    rewards = (1.0, 0.0, None)
    ending = "length" if group == 1 else "stop"
    reward = rewards[(step + group) % 3]
    return replace(made, record=record, reward=reward, finish_reason=ending)


@pytest.fixture
def run_id(engine: Engine) -> str:
    """Four steps of six rollouts, one of them damaged, and two evaluation rollouts."""
    name, writer = stored_runs.started(engine)
    for step in (1, 2, 3, 7):
        kept = [varied(step, group) for group in range(6)]
        writer.step(StepEvent(step, {}, 80, 0.0, {}, kept), stored_runs.texts)
    writer.evaluation(stored_runs.evaluation_event(7, 0.5), stored_runs.texts)
    broken = read_rollouts(engine, name, step=3, kind="train")["items"][0]["id"]
    with begin(engine) as connection:
        table = schema.token_record
        connection.execute(
            table.update().where(table.c.rollout_id == broken).values(completion_ids=b"\0" * 8)
        )
    return name


def rows_of(engine: Engine, run_id: str, where: Where) -> list[dict[str, Any]]:
    return [
        row
        for row in export_rows(engine, run_id, lambda damaged: None)
        if (where.kind is None or row["kind"] == where.kind)
        and (where.min_step is None or row["step"] >= where.min_step)
        and (where.max_step is None or row["step"] <= where.max_step)
    ]


def tokens_of(row: dict[str, Any]) -> Iterator[Token]:
    """The tokens that count: mask not 0, and a finite KL (|log-ratio| where there is none)."""
    for at, token_id in enumerate(row["completion_token_ids"]):
        student, teacher = (np.float32(row[f"{s}_logprobs"][at]) for s in ("student", "teacher"))
        ratio = float(student - teacher)
        heat = row["reverse_kl"][at] if row["reverse_kl"] else abs(ratio)
        weight = row["mask"][at] if row["mask"] else 1
        if weight == 0 or not math.isfinite(heat):
            continue
        data, special = stored_runs.texts([token_id])[token_id]
        yield {
            **{name: row[name] for name in ("step", "kind", "group", "sample", "reward")},
            "finish_reason": row["finish_reason"],
            "position": at,
            "token_id": token_id,
            "heat": heat,
            "entropy": row["student_entropy"][at] if row["student_entropy"] else None,
            "advantage": row["advantages"][at] if row["advantages"] else -ratio,
            "class": class_of(data, special),
            "text": data.decode("utf-8", "backslashreplace"),
        }


def tokens(engine: Engine, run_id: str, where: Where | None = None) -> list[Token]:
    rows = rows_of(engine, run_id, where or Where())
    return [token for row in rows for token in tokens_of(row)]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


PARTS = [Where(), Where("train"), Where("train", 2, 3), Where(None, 7, None)]


@pytest.mark.parametrize("where", PARTS)
def test_kl_by_position_and_step(engine: Engine, run_id: str, where: Where) -> None:
    insight = read_insight(engine, run_id, "positions", where)
    cells = defaultdict(list)
    for token in tokens(engine, run_id, where):
        (column,) = [i for i, (a, b) in enumerate(insight["steps"]) if a <= token["step"] <= b]
        (row,) = [i for i, (a, b) in enumerate(insight["positions"]) if a <= token["position"] <= b]
        cells[row, column].append(token["heat"])
    assert len(cells) > 8
    for row, line in enumerate(insight["kl"]):
        for column, value in enumerate(line):
            here = cells.get((row, column), [])
            assert insight["tokens"][row][column] == len(here)
            assert value == (pytest.approx(mean(here), rel=1e-5) if here else None)


@pytest.mark.parametrize("where", PARTS)
def test_shares_of_classes_and_tokens(engine: Engine, run_id: str, where: Where) -> None:
    insight = read_insight(engine, run_id, "tokens", where)
    every = tokens(engine, run_id, where)
    total = sum(token["heat"] for token in every)
    for key, items in (("class", insight["classes"]), ("token_id", insight["strings"])):
        for item in items:
            here = [token["heat"] for token in every if token[key] == item[key]]
            assert item["tokens"] == len(here)
            assert item["kl_share"] == pytest.approx(sum(here) / total, rel=1e-5)
            assert item["token_share"] == pytest.approx(len(here) / len(every))
            assert item["kl_mean"] == (pytest.approx(mean(here), rel=1e-5) if here else None)
    assert sum(item["tokens"] for item in insight["classes"]) == len(every)
    by_id: dict[int, float] = defaultdict(float)
    for token in every:
        by_id[token["token_id"]] += token["heat"]
    assert insight["distinct"] == len(by_id)
    worst = sorted(by_id.values(), reverse=True)[:20]
    assert [item["kl_share"] * total for item in insight["strings"]] == pytest.approx(worst, 1e-5)


@pytest.mark.parametrize("limits", [Thresholds(), Thresholds(1.5, 2.0)])
def test_quadrants_and_their_grid(engine: Engine, run_id: str, limits: Thresholds) -> None:
    insight = read_insight(engine, run_id, "quadrants", Where("train"), limits)
    every = tokens(engine, run_id, Where("train"))
    measured = [token for token in every if token["entropy"] is not None]
    assert insight["without"] == len(every) - len(measured) > 0
    for quadrant in insight["quadrants"]:
        here = [
            token["heat"]
            for token in measured
            if (token["entropy"] >= limits.entropy) == quadrant["unsure"]
            and (token["heat"] >= limits.heat) == quadrant["disagree"]
        ]
        assert quadrant["tokens"] == len(here) > 0
        share = sum(here) / sum(token["heat"] for token in measured)
        assert quadrant["kl_share"] == pytest.approx(share, rel=1e-5)
        assert listed(engine, run_id, quadrant, kind="train")["total"] == len(here)
    x, y = insight["entropy_edges"], insight["heat_edges"]
    assert limits.entropy in x and limits.heat in y
    assert sum(map(sum, insight["grid"])) == len(measured)
    for i, line in enumerate(insight["grid"]):
        for j, count in enumerate(line):
            assert count == sum(
                inside(t["entropy"], x[i : i + 2]) and inside(t["heat"], y[j : j + 2])
                for t in measured
            )


def inside(value: float, bounds: list[float | None]) -> bool:
    low, high = bounds
    return (low is None or value >= low) and (high is None or value < high)


def listed(engine: Engine, run_id: str, bounds: dict[str, Any], **more: Any) -> dict[str, Any]:
    names = [name for name in bounds if name.startswith(("min_", "max_"))]
    return read_hot_tokens(engine, run_id, **{n: bounds[n] for n in names}, **more)


@pytest.mark.parametrize("where", PARTS)
def test_advantages_and_the_top_hundredth(engine: Engine, run_id: str, where: Where) -> None:
    insight = read_insight(engine, run_id, "advantages", where)
    every = tokens(engine, run_id, where)
    edges = insight["edges"]
    assert edges == [None, *sorted(edges[1:-1]), None] and len(edges) == len(insight["counts"]) + 1
    for i, count in enumerate(insight["counts"]):
        assert count == sum(inside(token["advantage"], edges[i : i + 2]) for token in every)
        bin_ = {"min_advantage": edges[i], "max_advantage": edges[i + 1]}
        steps = {"min_step": where.min_step, "max_step": where.max_step}
        assert listed(engine, run_id, {**bin_, **steps}, kind=where.kind)["total"] == count
    assert insight["advantage_quantity"] == "mixed"
    for name, key in (("advantage", "advantage"), ("kl", "heat")):
        sizes = sorted((abs(token[key]) for token in every), reverse=True)
        top = sum(sizes[: math.ceil(len(sizes) / 100)]) / sum(sizes)
        assert insight["top"][name] == pytest.approx(top, rel=1e-5)


def test_right_and_wrong(engine: Engine, run_id: str) -> None:
    insight = read_insight(engine, run_id, "correctness", Where("train"))
    means = defaultdict(list)
    every = defaultdict(list)
    for row in rows_of(engine, run_id, Where("train")):
        heats = [token["heat"] for token in tokens_of(row)]
        grade = {None: "ungraded", 1.0: "right", 0.0: "wrong"}[row["reward"]]
        means[grade].append((mean(heats), row["step"], row["group"]))
        every[grade] += heats
    for group in insight["groups"]:
        assert group["rollouts"] == len(means[group["grade"]])
        assert group["tokens"] == len(every[group["grade"]])
        assert group["kl_mean"] == pytest.approx(mean(every[group["grade"]]), rel=1e-5)
    places = {
        name: [(item["step"], item["group"]) for item in insight[name]]
        for name in ("penalised", "endorsed")
    }
    assert places["penalised"] == [m[1:] for m in sorted(means["right"], reverse=True)][:10]
    assert places["endorsed"] == [m[1:] for m in sorted(means["wrong"])][:10]


def test_overlap_of_the_top_k(engine: Engine, run_id: str) -> None:
    insight = read_insight(engine, run_id, "overlap", Where("train"))
    sums: dict[int, list[list[float]]] = defaultdict(list)
    for row in rows_of(engine, run_id, Where("train")):
        if not row["student_topk"]:
            continue
        for at, (student, teacher) in enumerate(
            zip(row["student_topk"], row["teacher_topk"], strict=True)
        ):
            if row["mask"] and row["mask"][at] == 0:
                continue
            ours, other = [i for i, _ in student], [i for i, _ in teacher]
            sums[row["step"]].append(
                [
                    sum(i in other for i in ours) / len(ours),
                    sum(math.exp(p) for i, p in student if i in other),
                    sum(math.exp(p) for i, p in teacher if i in ours),
                ]
            )
    assert insight["step"] == sorted(sums) and insight["k"] == [4]
    assert insight["tokens"] == [len(sums[step]) for step in insight["step"]]
    for i, name in enumerate(("overlap", "student_mass", "teacher_mass")):
        expected = [mean([figures[i] for figures in sums[step]]) for step in insight["step"]]
        assert insight[name] == pytest.approx(expected, rel=1e-5)
    assert max(insight["overlap"]) > 0


def test_what_is_known_of_a_stop_token() -> None:
    at = {
        "completion_ids": 5,
        "student_logprobs": math.log(0.5),
        "student_topk_ids": np.array([5, 7]),
        "student_topk_logprobs": np.log([0.5, 0.2]),
        "student_topk_other": np.log([0.25, 0.1]),
        "student_topk_tail": 0.3,
        "teacher_topk_ids": np.array([9, 5]),
        "teacher_topk_logprobs": np.log([0.6, 0.25]),
        "teacher_topk_other": np.log([0.05, 0.5]),
        "teacher_topk_tail": 0.15,
    }
    assert bounds(at, "student", 5) == pytest.approx((0.5, 0.5))  # sampled
    assert bounds(at, "teacher", 5) == pytest.approx((0.25, 0.25))  # listed by the teacher
    assert bounds(at, "student", 9) == pytest.approx((0.05, 0.05))  # listed by the other only
    assert bounds(at, "teacher", 7) == pytest.approx((0.1, 0.1))
    assert bounds(at, "student", 8) == pytest.approx((0, 0.2))  # below the least that is listed
    assert bounds(at, "teacher", 8) == pytest.approx((0, 0.15))  # no more than what is left
    assert bounds({"completion_ids": 5}, "student", 8) is None


def ending(step: int, sample: int, n: int, reason: str = "stop") -> Any:
    """A rollout whose last token is 0, the special one, when it stopped."""
    record = stored_runs.record(n, seed=1000 * step + sample)
    record.completion_ids[-1] = 0 if reason == "stop" else 9
    assert record.student_topk is not None and record.teacher_topk is not None
    record.student_topk.ids[-2, 1] = 0  # listed before the end, by the student alone
    record.teacher_topk.ids[-2] = [50, 51, 52, 53]
    made = stored_runs.rollout(step, 0, sample)
    return replace(made, record=record, finish_reason=reason)


def test_the_probability_of_stopping(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    kept = {1: [ending(1, 0, 8), ending(1, 1, 9), ending(1, 2, 5, "length")], 2: [ending(2, 0, 6)]}
    for step, rollouts in kept.items():
        writer.step(StepEvent(step, {}, 30, 0.0, {}, rollouts), stored_runs.texts)
    insight = read_insight(engine, run_id, "stops")
    (stop,) = insight["stops"]
    assert (stop["token_id"], stop["special"], stop["endings"]) == (0, True, 3)
    end, before, cut = (stop["places"][name] for name in ("end", "before", "cut"))
    assert (end["step"], end["rollouts"]) == ([1, 2], [2, 1])
    for name in ("student", "teacher"):
        expected = [
            mean(
                [
                    math.exp(getattr(r.record, f"{name}_logprobs")[-1])
                    for r in rollouts
                    if r.finish_reason == "stop"
                ]
            )
            for rollouts in kept.values()
        ]
        assert end[name] == pytest.approx(expected) == end[f"{name}_most"]
        assert end[f"{name}_bounded"] == [0, 0]
    topk = kept[2][0].record.student_topk
    assert before["student"][1] == pytest.approx(math.exp(topk.logprobs[-2, 1]))
    assert before["teacher"][1] == pytest.approx(math.exp(topk.other_logprobs[-2, 1]))
    assert cut["step"] == [1] and cut["rollouts"] == [1]
    assert cut["student"] == [0] and cut["student_bounded"] == [1]
    assert 0 < cut["student_most"][0] <= 1


FILTERS: list[tuple[dict[str, Any], Callable[[Token], bool]]] = [
    ({"token_class": "word"}, lambda t: t["class"] == "word"),
    ({"token_class": "other"}, lambda t: t["class"] == "other"),
    ({"text": "W1"}, lambda t: "w1" in t["text"]),
    ({"token_id": 17}, lambda t: t["token_id"] == 17),
    ({"min_position": 3, "max_position": 5}, lambda t: 3 <= t["position"] <= 5),
    ({"min_position": 3, "correct": True}, lambda t: t["position"] >= 3 and t["reward"] == 1),
    ({"max_position": 9, "correct": False}, lambda t: t["position"] <= 9 and t["reward"] == 0),
    (
        {"text": "w", "finish_reason": "length", "kind": "train", "min_step": 2, "max_step": 3},
        lambda t: (
            "w" in t["text"]
            and t["finish_reason"] == "length"
            and t["kind"] == "train"
            and t["step"] in (2, 3)
        ),
    ),
    (
        {"min_heat": 1.0, "max_heat": 3.0, "step": 7},
        lambda t: 1 <= t["heat"] < 3 and t["step"] == 7,
    ),
    ({"min_entropy": 2.0}, lambda t: t["entropy"] is not None and t["entropy"] >= 2),
    (
        {"max_advantage": -1.0, "kind": "eval"},
        lambda t: t["advantage"] < -1 and t["kind"] == "eval",
    ),
]


@pytest.mark.parametrize(("filters", "matches"), FILTERS, ids=[str(f[0]) for f in FILTERS])
def test_filters_find_every_token(
    engine: Engine, run_id: str, filters: dict[str, Any], matches: Callable[[Token], bool]
) -> None:
    expected = sorted((t for t in tokens(engine, run_id) if matches(t)), key=lambda t: -t["heat"])
    hot = read_hot_tokens(engine, run_id, limit=1000, **filters)
    assert hot["total"] == len(expected) > 0 and hot["source"] == "records"
    names = ("heat", "step", "kind", "group", "position", "token_id")
    pairs = [[tuple(t[n] for n in names) for t in side] for side in (hot["items"], expected)]
    assert sorted(pairs[0]) == sorted(pairs[1])
    assert [item["heat"] for item in hot["items"]] == [t["heat"] for t in expected]
    paged = [
        read_hot_tokens(engine, run_id, limit=5, offset=o, **filters)["items"]
        for o in range(0, 15, 5)
    ]
    assert [item for page in paged for item in page] == hot["items"][:15]


def test_an_entry_has_the_same_form_from_the_index_and_from_the_records(
    engine: Engine, run_id: str
) -> None:
    index = read_hot_tokens(engine, run_id, step=2)
    records = read_hot_tokens(engine, run_id, step=2, min_position=0, limit=1000)
    assert index["source"] == "index" and index["kept"] == 3
    assert records["counted"] == records["total"] > index["total"]
    by_place = {(item["rollout_id"], item["position"]): item for item in records["items"]}
    assert len(index["items"]) == 18
    for item in index["items"]:
        assert by_place[item["rollout_id"], item["position"]] == item


def test_the_index_filters_by_rollout(engine: Engine, run_id: str) -> None:
    items = read_rollouts(engine, run_id, limit=100)["items"]
    for filters in (
        {"correct": True},
        {"correct": False, "finish_reason": "length"},
        {"min_step": 2, "max_step": 3},
        {"step": 7, "kind": "eval"},
    ):
        kept = {item["id"] for item in read_rollouts(engine, run_id, limit=100, **filters)["items"]}
        assert 0 < len(kept) < len(items)
        page = read_hot_tokens(engine, run_id, limit=100, **filters)
        assert {item["rollout_id"] for item in page["items"]} == kept
        assert page["total"] == len(page["items"])


def test_rollouts_by_length_steps_and_highest_kl(engine: Engine, run_id: str) -> None:
    items = read_rollouts(engine, run_id, limit=100)["items"]
    for filters, matches in (
        ({"min_tokens": 14, "max_tokens": 15}, lambda i: 14 <= i["tokens"] <= 15),
        ({"min_step": 2, "max_step": 3}, lambda i: 2 <= i["step"] <= 3),
        ({"min_kl_max": 3.0}, lambda i: (i["kl_max"] or 0) >= 3),
    ):
        page = read_rollouts(engine, run_id, limit=100, **filters)
        expected = {item["id"] for item in items if matches(item)}
        assert {item["id"] for item in page["items"]} == expected
        assert 0 < len(expected) < len(items)


def test_new_records_are_seen_at_once(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    for step in (1, 2):
        writer.step(stored_runs.step_event(step), stored_runs.texts)
        assert read_insight(engine, run_id, "tokens")["rollouts"] == 4 * step
        assert read_hot_tokens(engine, run_id, min_position=0)["total"] == 80 * step
    writer.truncate_after(1)
    writer.step(stored_runs.step_event(2, rollouts=2), stored_runs.texts)
    assert read_hot_tokens(engine, run_id, min_position=0)["total"] == 120


def test_a_run_over_the_cap_is_read_in_an_even_share(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "MAX_TOKENS", 200)
    run_id, writer = stored_runs.started(engine)
    for step in range(1, 11):
        writer.step(stored_runs.step_event(step), stored_runs.texts)
    insight = read_insight(engine, run_id, "positions")
    assert insight["capped"] and insight["stored"] == 800 and insight["read"] <= 200
    assert len(insight["steps"]) == 10  # each step has its share
    few = read_insight(engine, run_id, "positions", Where(None, 3, 4))
    assert not few["capped"] and few["counted"] == 160
    listed_there = read_hot_tokens(engine, run_id, min_position=0)
    assert listed_there["capped"] and listed_there["total"] == insight["counted"]


def test_branches_count_only_where_they_are_asked_for(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    writer.step(stored_runs.step_event(1), stored_runs.texts)
    before = (
        read_insight(engine, run_id, "tokens")["classes"],
        diagnose(engine, run_id),
    )
    record = replace(stored_runs.record(seed=9), reverse_kl=np.full(20, 50, np.float32))
    branch = replace(stored_runs.rollout(2, 9), kind="branch", record=record)
    writer.step(StepEvent(2, {}, 20, 0.0, {}, [branch]), stored_runs.texts)
    after = read_insight(engine, run_id, "tokens")["classes"], diagnose(engine, run_id)
    assert after == before
    assert read_insight(engine, run_id, "overlap")["step"] == [1]
    assert read_hot_tokens(engine, run_id, min_position=0)["total"] == 80
    assert all(i["kind"] == "train" for i in read_hot_tokens(engine, run_id)["items"])
    assert read_hot_tokens(engine, run_id, kind="branch", min_position=0)["total"] == 20
    assert read_insight(engine, run_id, "tokens", Where("branch", 2, 2))["counted"] == 20


def test_one_bound_of_the_advantages_is_zero(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    values = np.random.default_rng(75).normal(0, 2, 20).astype(np.float32)
    values[:5] = 0  # at these numbers, twenty equal steps from the lowest bound lead past it
    one = replace(stored_runs.rollout(), record=replace(stored_runs.record(), advantages=values))
    writer.step(StepEvent(1, {}, 20, 0.0, {}, [one]), stored_runs.texts)
    insight = read_insight(engine, run_id, "advantages")
    assert sum(insight["counts"][: insight["edges"].index(0)]) == 8


def test_many_alternatives_take_memory_in_proportion(engine: Engine) -> None:
    """As an import may have them."""
    run_id, writer = stored_runs.started(engine)
    random = np.random.default_rng(0)
    ids = [random.permuted(np.tile(np.arange(900), (600, 1)), axis=1)[:, :450] for _ in range(2)]
    tops = [TopK(i, *(np.full(i.shape, -7, np.float32),) * 2, np.zeros(600)) for i in ids]
    record = replace(stored_runs.record(600), student_topk=tops[0], teacher_topk=tops[1])
    one = replace(stored_runs.rollout(), record=record)
    writer.step(StepEvent(1, {}, 600, 0.0, {}, [one]), lambda ids: {})
    tracemalloc.start()
    try:
        insight = read_insight(engine, run_id, "overlap")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    shared = [len({*a} & {*b}) / 450 for a, b in zip(*(i.tolist() for i in ids), strict=True)]
    assert insight["overlap"] == [pytest.approx(mean(shared))]
    assert peak < 60e6  # every pair of them: 121 MB


def test_a_run_without_tokens(engine: Engine) -> None:
    run_id, _ = stored_runs.started(engine)
    for name in ("positions", "tokens", "quadrants", "advantages", "correctness"):
        assert read_insight(engine, run_id, name)["counted"] == 0
    assert read_insight(engine, run_id, "overlap")["step"] == []
    assert read_insight(engine, run_id, "stops")["stops"] == []
    assert read_insights_overview(engine, run_id)["kinds"] == []
    with pytest.raises(UserError, match="no such run"):
        read_insight(engine, "run-x", "tokens")


def test_a_record_without_alternatives_wants_nothing(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine)
    bare = replace(stored_runs.rollout(), record=stored_runs.record(k=0))
    empty = TopK(np.zeros((20, 0), np.int64), *(np.zeros((20, 0), np.float32),) * 2, np.ones(20))
    none = replace(bare, sample=1, record=replace(bare.record, teacher_topk=empty))
    writer.step(StepEvent(1, {}, 40, 0.0, {}, [bare, none]), stored_runs.texts)
    page = read_hot_tokens(engine, run_id, min_position=0)
    assert {item["wanted"] for item in page["items"]} == {None}


@pytest.mark.parametrize(
    ("data", "special", "expected"),
    [
        (b" therefore", False, "word"),
        ("über".encode(), False, "word"),
        ("答え".encode(), False, "word"),
        (b"x1", False, "word"),
        (b"7", False, "number"),
        (b" 3.14", False, "number"),
        (b"12)", False, "number"),
        ("½".encode(), False, "number"),
        (b" +", False, "operator"),
        (b"==", False, "operator"),
        (b".\n", False, "operator"),
        ("€".encode(), False, "operator"),
        (b" ", False, "whitespace"),
        (b"\n\n\t", False, "whitespace"),
        (b"<|im_end|>", True, "special"),
        (b"<|im_end|>", False, "special"),
        (b"</s>", False, "special"),
        (b"anything", True, "special"),
        (b"<think>", True, "thinking"),
        (b"<think>", False, "thinking"),
        (b"</think>\n\n", False, "thinking"),
        (b"\xe7\xad", False, "other"),
        (b"\x94", False, "other"),
        (b" \xc3", False, "other"),
        ("🎉".encode(), False, "other"),
        (b"", False, "other"),
    ],
)
def test_classes_of_tokens(data: bytes, special: bool, expected: str) -> None:
    assert class_of(data, special) == expected


@pytest.mark.parametrize(
    "path",
    [
        *("insights/nope", "insights/tokens?kind=x", "insights/tokens?min_step=-1"),
        *("insights/quadrants?entropy=0", "insights/quadrants?heat=nan"),
        *("insights/quadrants?entropy=1001", "hot-tokens?class=verb", "hot-tokens?token_id=-1"),
        *("hot-tokens?token_id=4294967296", "hot-tokens?min_position=-1", "hot-tokens?limit=1001"),
        *("hot-tokens?min_heat=inf", "hot-tokens?max_entropy=1e99", "hot-tokens?correct=maybe"),
        *("hot-tokens?text=%00", f"hot-tokens?text={'x' * 501}", "hot-tokens?min_step=1.5"),
        *("rollouts?min_tokens=-1", "rollouts?min_kl_max=nan"),
    ],
)
def test_bounds_of_the_routes(engine: Engine, run_id: str, tmp_path: Path, path: str) -> None:
    answer = Api(engine, tmp_path)("GET", f"/runs/{run_id}/{path}")
    assert answer.status_code == 422 and answer.json()["problems"][0]["message"]


def test_the_routes_give_what_the_queries_do(engine: Engine, tmp_path: Path) -> None:
    run_id = fill_run(engine, 0, 4_000)
    api = Api(engine, tmp_path)
    overview = api.get(f"/runs/{run_id}/insights")
    assert [kind["kind"] for kind in overview["kinds"]] == ["train"]
    for name in ("positions", "tokens", "quadrants", "advantages", "correctness", "overlap"):
        answer = api.get(f"/runs/{run_id}/insights/{name}", kind="train", max_step=9)
        again = read_insight(engine, run_id, name, Where("train", None, 9))
        assert {**answer, "seconds": 0} == {**again, "seconds": 0}
    numbers = api.get(f"/runs/{run_id}/hot-tokens", **{"class": "number", "limit": 3, "step": 2})
    direct = read_hot_tokens(engine, run_id, token_class="number", limit=3, step=2)
    assert numbers == direct and numbers["total"] > 3
    assert all(any(c.isnumeric() for c in item["text"]) for item in numbers["items"])
    assert api("GET", "/runs/run-x/insights").status_code == 404
