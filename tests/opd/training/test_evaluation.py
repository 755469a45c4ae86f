"""pass@k and its errors by hand, and several suites in one run."""

import itertools
import json

import numpy as np
import pytest

from opd.training.evaluation import pass_at_k, pass_score, proportion, suite_name
from opd.training.trainer import Training
from opd.types import EvaluationEvent, StepEvent
from tests.opd.teachers.test_local import settings
from tests.support import tiny_models

pytestmark = pytest.mark.device


def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one():
    for n, c in ((5, 0), (5, 1), (5, 3), (5, 5), (1, 1)):
        outcomes = [1] * c + [0] * (n - c)
        for k in range(1, n + 1):
            draws = list(itertools.combinations(outcomes, k))
            expected = sum(any(d) for d in draws) / len(draws)
            assert pass_at_k(c, n, k) == pytest.approx(expected)


def test_one_sample_a_prompt_has_the_binomial_error():
    score = pass_score("heldout", 1, [[1.0], [0.0], [1.0], [1.0]])
    assert score == proportion("heldout", "pass@1", [1, 0, 1, 1])
    assert score.value == 0.75
    assert score.standard_error == pytest.approx(np.sqrt(0.75 * 0.25 / 4))


def test_several_samples_have_the_error_over_prompts():
    score = pass_score("heldout", 2, [[1, 0, 0], [0, 0, 0], [1, 1, 1]])
    values = [1 - 1 / 3, 0, 1]
    assert score.value == pytest.approx(np.mean(values))
    assert score.n == 3
    assert score.standard_error == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))


def test_suites_are_named_by_temperature():
    assert suite_name("chat", 1.0, 1.0) == "chat"
    assert suite_name("chat", 0.0, 1.0) == "chat-greedy"
    assert suite_name("chat", 0.7, 1.0) == "chat-t0.7"


def test_suites_and_probes_in_one_run(tmp_path):
    for seed, name in enumerate(("student", "teacher")):
        tiny_models.save_model(tmp_path / name, seed=seed, scale=3.0)
    for name in ("prompts", "chat"):
        rows = [{"prompt": f"{name} {i}", "answer": "3"} for i in range(20)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = settings(
        tmp_path,
        prompts={"source": str(tmp_path / "prompts.jsonl"), "probe": 2, "eval_share": 0.4},
        evaluation={
            "prompts": 4,
            "keep": 3,
            "samples": 3,
            "pass_at": [1, 3],
            "suites": {"chat": {"source": str(tmp_path / "chat.jsonl"), "count": 5}},
        },
    )
    events = list(Training(config, tmp_path / "run").events())
    last = [e for e in events if isinstance(e, EvaluationEvent)][-1]
    scores = {(s.suite, s.metric): s for s in last.scores}
    assert set(scores) == {
        *(("heldout", m) for m in ("pass@1", "pass@3", "finished")),
        *(("heldout-greedy", m) for m in ("pass@1", "finished")),
        *(("chat", m) for m in ("pass@1", "pass@3", "finished")),
        *(("chat-greedy", m) for m in ("pass@1", "finished")),
    }
    assert scores["heldout", "finished"].n == 12
    assert scores["chat", "finished"].n == 15
    assert scores["chat-greedy", "finished"].n == 5
    kinds = [r.kind for r in last.rollouts]
    assert kinds.count("eval") == 3 + 2 * 3  # those that are kept, and new answers to the probes
    assert kinds.count("probe") == 2
    probes = {r.prompt for r in last.rollouts if r.kind == "probe"}
    trained = {r.prompt for e in events if isinstance(e, StepEvent) for r in e.rollouts}
    assert len(probes) == 2
    assert trained
    assert probes.isdisjoint(trained)


def test_a_suite_can_be_asked_at_both_ends_alone(tmp_path):
    for seed, name in enumerate(("student", "teacher")):
        tiny_models.save_model(tmp_path / name, seed=seed, scale=3.0)
    rows = [{"prompt": f"number {i}", "answer": "3"} for i in range(20)]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    suites = {
        "seldom": {"source": str(path), "count": 2, "when": "ends"},
        "often": {"source": str(path), "count": 2},
    }
    config = settings(
        tmp_path,
        steps=3,
        prompts={"source": str(path)},
        evaluation={"prompts": 2, "every": 1, "temperatures": [1.0], "suites": suites},
    )
    events = [
        e for e in Training(config, tmp_path / "run").events() if isinstance(e, EvaluationEvent)
    ]
    by_step = {e.step: {s.suite for s in e.scores} for e in events if e.scores}
    assert by_step == {
        0: {"heldout", "often", "seldom"},
        1: {"heldout", "often"},
        2: {"heldout", "often"},
        3: {"heldout", "often", "seldom"},
    }
