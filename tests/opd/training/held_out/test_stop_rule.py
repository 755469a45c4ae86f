"""When a run ends by itself: each rule against scores and times made by hand."""

import time

import pytest

from opd.config.run import parse
from opd.errors import UserError
from opd.training.held_out.stop_rule import StopRule
from opd.types import EarlierAttempts, Score


def rule(stop, earlier=None, **changes):
    config = parse({"stop": stop, "evaluation": {"every": 1} | changes})
    return StopRule(config, earlier or EarlierAttempts())


def score(value, suite="heldout"):
    return [Score("other", "pass@1", 1.0, 4, 0.1), Score(suite, "pass@1", value, 4, 0.1)]


def reasons(tested, values, suite="heldout"):
    """What the rule says after an evaluation of each step, from 0."""
    said = []
    for step, value in enumerate(values):
        tested.evaluated(step, score(value, suite))
        if step:
            tested.look()
        said.append(tested.reason)
    return said


def test_a_score_that_is_reached_ends_the_run_and_stays_the_reason():
    first, second, third, fourth = reasons(rule({"score": 0.5}), [0.1, 0.49, 0.5, 0.2])
    assert first == second == ""
    assert third == fourth == "stop.score: heldout pass@1 0.5 after step 2 reaches 0.5"


def test_the_score_before_training_ends_no_run():
    tested = rule({"score": 0.5})
    tested.evaluated(0, score(0.9))
    tested.look()
    assert tested.reason == ""


def test_patience_counts_the_evaluations_since_the_first_of_the_best():
    said = reasons(rule({"patience": 2}), [0.5, 0.4, 0.6, 0.6, 0.5, 0.9])
    assert said[:4] == [""] * 4  # an equal score is no better one
    assert said[4] == (
        "stop.patience: 2 evaluations without a better score than heldout pass@1 0.6 after step 2"
    )
    assert reasons(rule({"patience": 1}), [0.5, 0.5])[1].endswith("0.5 before training")


def test_the_score_is_that_of_the_first_temperature():
    tested = rule({"score": 0.5}, temperatures=[0.0, 1.0])
    assert reasons(tested, [0.1, 0.6], "heldout-greedy")[1].startswith("stop.score: heldout-greedy")


def test_minutes_count_those_of_earlier_attempts(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tested = rule({"minutes": 2}, EarlierAttempts(seconds=90.0))
    now[0] += 29.0
    tested.look()
    assert tested.reason == ""
    now[0] += 1.0
    tested.look()
    assert tested.reason == "stop.minutes: 2.0 minutes have passed, of 2"


def test_scores_of_earlier_attempts_count():
    earlier = EarlierAttempts(evaluations={0: score(0.5), 1: score(0.4)})
    tested = rule({"patience": 2}, earlier)
    tested.look()
    assert tested.reason == ""
    tested.evaluated(2, score(0.3))
    tested.look()
    assert tested.reason.startswith("stop.patience: 2 evaluations")


@pytest.mark.parametrize("stop", [{"score": 0.5}, {"patience": 1}])
def test_prompts_that_cannot_be_graded_are_refused_before_any_step(stop):
    with pytest.raises(UserError, match=f"^stop.{next(iter(stop))}: no held-out prompt") as caught:
        rule(stop).evaluated(0, [Score("heldout", "finished", 1.0, 4, 0.1)])
    assert "prompts.columns.answer" in str(caught.value)
    rule({"minutes": 1}).evaluated(0, [])
