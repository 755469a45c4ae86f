"""Each check on records with known numbers, just under and just over its thresholds."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.diagnosis import evidence
from opd.diagnosis.checks import CHECKS, run_checks
from opd.diagnosis.endorsed_repetition import looping
from opd.diagnosis.run_records import RunRecords
from opd.diagnosis.run_tokens import RunTokens
from tests.support.records_with_fault import (
    OTHER_END,
    ROLLOUTS,
    STEPS,
    TOKENS,
    Columns,
    Fault,
    another_end,
    records,
)

ROOT = Path(__file__).parents[3]
LAST_STEPS = 2  # a quarter of STEPS


def codes(diagnosis: dict[str, Any]) -> list[str]:
    return [card["code"] for card in diagnosis["items"]]


def values(diagnosis: dict[str, Any], code: str) -> dict[str, float]:
    """What was found of a signal, fired or not, by label."""
    (item,) = [i for i in (*diagnosis["items"], *diagnosis["silent"]) if i["code"] == code]
    return {e["label"]: e["value"] for e in item["evidence"]}


def silence(diagnosis: dict[str, Any], code: str) -> dict[str, Any]:
    (item,) = [s for s in diagnosis["silent"] if s["code"] == code]
    return item


def test_agreement_has_no_card() -> None:
    diagnosis = run_checks(records(tokens=130))
    assert diagnosis["items"] == [] and diagnosis["total"] == 0
    assert [s["code"] for s in diagnosis["silent"]] == list(CHECKS)
    assert all(s["judged"] for s in diagnosis["silent"])
    seen = diagnosis["looked_at"]
    assert seen["rollouts"] == STEPS * ROLLOUTS and seen["steps"] == STEPS
    assert seen["tokens"] == STEPS * ROLLOUTS * 130
    assert seen["damaged"] == 0 and seen["enough"] and seen["kind"] == "train"


def sampler(x: float) -> Fault:
    def fault(c: Columns, number: int) -> None:
        c["sampler_logprobs"] = c["student_logprobs"] - np.float32(x)

    return fault


def first_token(x: float, rest: float = 0.1) -> Fault:
    def fault(c: Columns, number: int) -> None:
        c["reverse_kl"][:] = rest
        c["reverse_kl"][0] = x

    return fault


def goes_on(p: float, share: float) -> Fault:
    def fault(c: Columns, number: int) -> None:
        c["finish_reason"] = "length" if number % 2 else "stop"
        if number % 2 and number < 2 * share * STEPS * ROLLOUTS:
            c["finish_reason"] = "length"
            c["top"][10, 0] = OTHER_END
            c["top_logprobs"][10, 0] = np.log(p)

    return fault


def loop(p: float, share: float, repeats: int = 4) -> Fault:
    """Spans of 4 words that go round, which the teacher gives p from the second time on."""

    def fault(c: Columns, number: int) -> None:
        if number % 100 < 100 * share or share == 1:
            ids = c["completion_ids"]
            for time in range(1, repeats):
                ids[2 + 4 * time : 6 + 4 * time] = ids[2:6]
                c["teacher_logprobs"][2 + 4 * time : 6 + 4 * time] = np.log(p)

    return fault


def off_support(mass: float, student: float = 1e-5, kl: float = 10.0) -> Fault:
    def fault(c: Columns, number: int) -> None:
        c["top_logprobs"][10] = np.log([mass, 1 - mass])
        c["top_other"][10] = np.log([student, 0.9])
        c["reverse_kl"][10] = kl

    return fault


def unsure(last: float, first: float) -> Fault:
    def fault(c: Columns, number: int) -> None:
        quarter = len(c["mask"]) // 4
        c["teacher_entropy"][:quarter] = first
        c["teacher_entropy"][-quarter:] = last

    return fault


def trend(name: str, first: float, last: float, **others: float) -> dict[str, Any]:
    """A metric over the first and the last quarter of the steps, between them the mean."""

    def metrics(step: int) -> dict[str, float]:
        middle = (first + last) / 2
        here = first if step <= LAST_STEPS else last if step > STEPS - LAST_STEPS else middle
        return {**others, name: here}

    return {"metrics": metrics}


TOP = {"reverse_kl": 0.6}
LONG: dict[str, Any] = {"tokens": 128}
# code; what does not fire; what does; each a fault or the arguments of the run
CASES: list[tuple[str, Any, Any]] = [
    ("sampler-mismatch", sampler(0.0098), sampler(0.0102)),
    (
        "sampler-mismatch",
        {"fault": sampler(0.049), "student": {"dtype": "bfloat16"}},
        {"fault": sampler(0.051), "student": {"dtype": "bfloat16"}},
    ),
    ("template-mismatch", first_token(1.98), first_token(2.02)),
    ("template-mismatch", first_token(3.9, rest=1.0), first_token(4.1, rest=1.0)),
    (
        "template-mismatch",
        {"fault": first_token(2.1, rest=0.15), "tokens": 128},
        {"fault": first_token(2.1, rest=0.14), "tokens": 128},
    ),
    ("stop-mismatch", another_end(0.0102), another_end(0.0098)),
    (
        "stop-mismatch",
        another_end(0.001, share=0.48, elsewhere=0.2),
        another_end(0.001, share=0.5, elsewhere=0.2),
    ),
    (
        "stop-mismatch",
        another_end(0.001, share=0, elsewhere=0.24),
        another_end(0.001, share=0, elsewhere=0.26),
    ),
    ("stop-mismatch", goes_on(0.49, 0.3), goes_on(0.51, 0.3)),
    ("stop-mismatch", goes_on(0.9, 0.24), goes_on(0.9, 0.25)),
    ("endorsed-repetition", loop(0.49, 1), loop(0.51, 1)),
    ("endorsed-repetition", loop(0.9, 1, repeats=3), loop(0.9, 1, repeats=4)),
    ("overlap-flat", trend("same_top", 0.81, 0.81, **TOP), trend("same_top", 0.79, 0.79, **TOP)),
    ("overlap-flat", trend("same_top", 0.5, 0.58, **TOP), trend("same_top", 0.5, 0.57, **TOP)),
    (
        "overlap-flat",
        trend("same_top", 0.5, 0.5, reverse_kl=0.49),
        trend("same_top", 0.5, 0.5, reverse_kl=0.51),
    ),
    (
        "overlap-flat",
        trend("same_top", 0.5, 0.5, **TOP) | {"scores": [0.3, 0.33]},
        trend("same_top", 0.5, 0.5, **TOP) | {"scores": [0.3, 0.31]},
    ),
    ("off-support", off_support(0.89), off_support(0.91)),  # at one of 18 inner tokens
    ("off-support", off_support(0.95, student=1.1e-4), off_support(0.95, student=0.9e-4)),
    ("off-support", off_support(0.95, kl=1.1), off_support(0.95, kl=1.3)),
    (
        "entropy-collapse",
        trend("student_entropy", 0.4, 0.102),
        trend("student_entropy", 0.4, 0.098),
    ),
    (
        "entropy-collapse",
        trend("student_entropy", 0.4, 0.05, teacher_entropy=0.15),
        trend("student_entropy", 0.4, 0.05, teacher_entropy=0.153),
    ),
    (
        "entropy-collapse",
        trend("student_entropy", 0.4, 0.05) | {"scores": [0.3, 0.5]},
        trend("student_entropy", 0.4, 0.05) | {"scores": [0.3, 0.25]},
    ),
    ("length-drift", trend("finished", 1.0, 0.51), trend("finished", 1.0, 0.49)),
    (
        "length-drift",
        trend("completion_tokens", 20, 29.8, finished=0.6),
        {
            "metrics": lambda step: {
                "completion_tokens": 20.0 if step <= LAST_STEPS else 30.2,
                "finished": 1.0 if step <= LAST_STEPS else 0.7,
            }
        },
    ),
    (
        "length-drift",
        {
            "metrics": lambda step: {
                "completion_tokens": 20.0 if step <= LAST_STEPS else 40.0,
                "finished": 0.79 if step <= LAST_STEPS else 0.7,
            }
        },
        {
            "metrics": lambda step: {
                "completion_tokens": 20.0 if step <= LAST_STEPS else 40.0,
                "finished": 0.81 if step <= LAST_STEPS else 0.7,
            }
        },
    ),
    ("unsure-late", {"fault": unsure(0.98, 0.1), **LONG}, {"fault": unsure(1.02, 0.1), **LONG}),
    ("unsure-late", {"fault": unsure(1.5, 0.76), **LONG}, {"fault": unsure(1.5, 0.74), **LONG}),
    (
        "unsure-late",
        {"fault": unsure(1.5, 0.1), "tokens": 127},
        {"fault": unsure(1.5, 0.1), **LONG},
    ),
]


@pytest.mark.parametrize(("code", "under", "over"), CASES)
def test_a_card_comes_at_its_threshold(code: str, under: Any, over: Any) -> None:
    quiet, loud = (
        run_checks(records(**(c if isinstance(c, dict) else {"fault": c}))) for c in (under, over)
    )
    assert codes(quiet) == []
    assert codes(loud) == [code]
    card = loud["items"][0]
    assert card["title"] and card["text"].endswith(".") and card["advice"]
    assert card["severity"] in ("error", "warning")
    for item in card["evidence"]:
        if item["fires"]:
            above = item["value"] >= item["threshold"]
            assert above == (item["fires"] == "above")


def test_the_evidence_is_what_was_planted() -> None:
    diagnosis = run_checks(records(first_token(5.0, rest=0.5)))
    seen = values(diagnosis, "template-mismatch")
    assert seen["KL at template tokens"] == pytest.approx(5)
    assert seen["times that of other tokens"] == pytest.approx(10)
    assert seen["their share of the KL"] == pytest.approx(5 / (5 + 19 * 0.5))
    assert seen["their share of the tokens"] == pytest.approx(1 / TOKENS)
    diagnosis = run_checks(records(off_support(0.96)))
    seen = values(diagnosis, "off-support")
    assert seen["teacher's mass on tokens the student never samples"] == pytest.approx(0.96 / 18)
    assert seen["the same, weighted by the KL"] == pytest.approx(0.96 * 10 / (10 + 17 * 0.1))
    diagnosis = run_checks(records(sampler(0.5)))
    seen = values(diagnosis, "sampler-mismatch")
    assert seen["mean difference"] == pytest.approx(0.5, abs=1e-6)
    assert seen["mean importance ratio"] == pytest.approx(np.exp(0.5), abs=1e-5)
    diagnosis = run_checks(records(loop(0.8, 1)))
    seen = values(diagnosis, "endorsed-repetition")
    assert seen["completions that loop"] == 1
    assert seen["teacher's p of the repeated tokens"] == pytest.approx(0.8)


def test_links_lead_to_the_clearest_tokens() -> None:
    def fault(c: Columns, number: int) -> None:
        first_token(5.0 + number / 10)(c, number)

    (card,) = run_checks(records(fault))["items"]
    last = [f"roll-{number}" for number in range(STEPS * ROLLOUTS)][: -evidence.MAX_LINKS - 1 : -1]
    assert [link["id"] for link in card["rollouts"]] == last
    assert {link["position"] for link in card["rollouts"]} == {0}
    assert card["rollouts"][0]["step"] == STEPS
    assert re.search(r"wrote ' w\d+' \(id \d+\)", card["rollouts"][0]["why"])
    loops = run_checks(records(loop(0.8, 1)))["items"][0]["rollouts"]
    assert {link["position"] for link in loops} == {6}, "where the span begins for the second time"


def test_masked_tokens_do_not_speak() -> None:
    def masked(c: Columns, number: int) -> None:
        first_token(9.0)(c, number)
        another_end(1e-6)(c, number)
        c["mask"][[0, -1]] = 0

    diagnosis = run_checks(records(masked))
    assert codes(diagnosis) == []
    assert "finished completions" in silence(diagnosis, "stop-mismatch")["why"]


def test_what_a_teacher_wrote_does_not_speak() -> None:
    def by_teacher(c: Columns, number: int) -> None:
        another_end(1e-6)(c, number)
        loop(0.9, 1)(c, number)
        sampler(1.0)(c, number)
        c["author"] = "teacher"

    diagnosis = run_checks(records(by_teacher))
    assert codes(diagnosis) == []
    assert silence(diagnosis, "sampler-mismatch")["why"].startswith("too little data: 0 tokens")


def test_rollouts_of_older_weights_are_no_mismatch() -> None:
    diagnosis = run_checks(records(sampler(0.5), sampling={"lag": 1, "engine": "vllm"}))
    assert codes(diagnosis) == []
    assert "weights of the step before" in silence(diagnosis, "sampler-mismatch")["why"]


def test_a_cause_stands_before_what_follows_from_it() -> None:
    diagnosis = run_checks(records(another_end(1e-6), **trend("finished", 1.0, 0.1)))
    assert codes(diagnosis) == ["stop-mismatch", "length-drift"]


def test_a_share_of_looping_answers_is_needed() -> None:
    def one_in(n: int) -> Fault:
        return lambda c, number: loop(0.9, 1)(c, number) if number % n == 0 else None

    assert codes(run_checks(records(one_in(8)))) == ["endorsed-repetition"]
    assert codes(run_checks(records(one_in(12)))) == []


def test_a_table_in_a_long_answer_is_no_loop() -> None:
    """16 of 20 tokens repeat a span, but only 16 of 128."""
    assert codes(run_checks(records(loop(0.9, 1), tokens=128))) == []


def test_a_teacher_that_finds_every_token_unlikely_says_nothing_of_ends() -> None:
    fault = another_end(1e-6, share=0, elsewhere=0.01)
    assert codes(run_checks(records(fault))) == []


def test_falling_entropy_down_to_the_teachers_is_healthy() -> None:
    healthy = trend("student_entropy", 0.5, 0.01, teacher_entropy=0.01)
    assert codes(run_checks(records(**healthy))) == []


def test_too_little_is_said() -> None:
    diagnosis = run_checks(records(another_end(1e-6), steps=2))
    assert codes(diagnosis) == [] and not diagnosis["looked_at"]["enough"]
    assert not any(s["judged"] for s in diagnosis["silent"] if s["code"] != "endorsed-repetition")
    assert "320 tokens, at least 500 needed" in silence(diagnosis, "stop-mismatch")["why"]
    assert "2 steps, at least 8 needed" in silence(diagnosis, "length-drift")["why"]
    nothing = run_checks(records(steps=1, tokens=2))
    assert nothing["items"] == []


def records_of(*completions: list[int]) -> RunRecords:
    rows = [{"step": 1, "author": "student", "finish_reason": "stop"} for _ in completions]
    ids = np.array([i for c in completions for i in c], np.int64)
    lengths = np.array([len(c) for c in completions], np.int64)
    return RunRecords({}, RunTokens(rows, {"completion_ids": ids}, lengths, 0), {}, {}, ())


def looped(ids: list[int]) -> list[bool]:
    """By the definition: a stretch of period p that is at least 4 p and 12 tokens long."""
    flags = [False] * len(ids)
    for p in range(1, len(ids)):
        start = 0
        while start < len(ids):
            end = start + p
            while end < len(ids) and ids[end] == ids[end - p]:
                end += 1
            if end - start >= max(4 * p, 12) and end <= len(ids):
                flags[start + p : end] = [True] * (end - start - p)
            start += 1
    return flags


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=3))
def test_loops_are_found_within_a_rollout_alone(completions: list[list[int]]) -> None:
    flags = looping(records_of(*completions)).tolist()
    assert flags == [mark for c in completions for mark in looped(c)]


def test_the_page_on_the_cards_names_each_and_its_thresholds() -> None:
    text = (ROOT / "docs" / "guide" / "diagnosis.md").read_text(encoding="utf-8")
    for code, (_, check) in CHECKS.items():
        assert f"`{code}`" in text
        for name, value in vars(sys.modules[check.__module__]).items():
            if name.isupper() and isinstance(value, int | float) and name != "MAX_LINKS":
                shown = {f"{value:g}", f"{100 * value:g}%"}
                assert any(s in text for s in shown), f"{name} = {value:g}"
