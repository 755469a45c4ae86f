"""The teacher's own score beside plain transformers, and when a run asks for it."""

import itertools
from dataclasses import replace
from importlib import resources

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from opd.config.run import parse
from opd.data.prompts import load_prompts
from opd.errors import ConfigError, UserError
from opd.grading.graders import grade
from opd.models.load import context_of
from opd.sampling.sample import Stopped
from opd.training.evaluation import evaluate
from opd.training.held_out.teacher_score import teacher_scores
from opd.training.loading import Callbacks, load
from opd.training.rollouts import Writer
from opd.training.trainer import Training
from opd.types import EvaluationEvent

pytestmark = pytest.mark.device
SMALL = {"threads": 1, "evaluation": {"prompts": 6}}


def is_measured(**changes):
    return parse(SMALL | changes).evaluates_teacher


def scores_of(config, stop=lambda: False):
    loaded = load(config, None, Callbacks())
    try:
        context = context_of(loaded.pair.student)
        prompts = load_prompts(config, loaded.pair.tokenizer, context)
        lines = []
        writer = Writer(loaded.pair, config, loaded.router)
        return teacher_scores(writer, prompts, stop, lines.append), lines, prompts
    finally:
        loaded.close()


def test_it_is_what_plain_transformers_gets():
    config = parse(SMALL | {"evaluation": {"prompts": 6, "temperatures": [0.0]}})
    scores, lines, prompts = scores_of(config)
    folder = str(resources.files("opd") / "bundled" / "teacher")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    right = []
    for prompt in prompts.held_out:
        ids = torch.tensor([prompt.ids])
        limit = config.sampling.max_new_tokens
        whole = model.generate(ids, do_sample=False, max_new_tokens=limit)
        text = tokenizer.decode(whole[0, len(prompt.ids) :], skip_special_tokens=True)
        right.append(grade(config.prompts, text, prompt.answer))
    (score, finished) = scores
    assert (score.suite, score.metric) == ("heldout-greedy", "teacher_pass@1")
    assert (finished.suite, finished.metric) == ("heldout-greedy", "teacher_finished")
    assert score.value == sum(right) / 6 > 0.5
    assert score.n == 6
    assert not lines


def test_a_run_has_it_once_and_it_is_no_score_of_the_student(tmp_path):
    config = parse(SMALL | {"steps": 1, "sampling": {"prompts_per_step": 1, "group_size": 1}})
    training = Training(config, tmp_path)
    whole = [e for e in training.events() if isinstance(e, EvaluationEvent) and e.scores]
    metrics = [[(s.suite, s.metric) for s in e.scores] for e in whole]
    theirs = [m for m in metrics[0] if m[1].startswith("teacher_")]
    assert theirs == list(
        itertools.product(("heldout", "heldout-greedy"), ("teacher_pass@1", "teacher_finished"))
    )
    assert metrics[1] == [m for m in metrics[0] if m not in theirs]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"evaluation": {"teacher": False}}, False),
        ({"prompts": {"source": "rows.jsonl", "grader": "none"}}, False),
        ({"teacher": {"kind": "self"}}, False),
        ({"teacher": {"kind": "self"}, "evaluation": {"teacher": True}}, True),
        ({"teacher": {"kind": "self", "prompt": "{answer} {prompt}"}}, True),
        ({"teacher": {"kind": "none"}, "objective": "grpo"}, False),
        ({"objective": "grpo"}, False),
        ({"objective": "sft", "sampling": {"source": "teacher"}}, True),
    ],
)
def test_it_is_asked_for_where_it_says_something(changes, expected):
    assert is_measured(**changes) is expected


def test_a_remote_teacher_writes_nothing():
    remote = {"kind": "remote", "url": "http://127.0.0.1:1/v1", "model": "m"}
    assert not is_measured(teacher=remote, objective="policy_gradient")
    with pytest.raises(ConfigError, match=r"teacher\.kind is remote; got true") as refused:
        is_measured(teacher=remote, objective="policy_gradient", evaluation={"teacher": True})
    assert refused.value.problems[0]["field"] == "evaluation.teacher"


def test_without_a_grader_there_is_no_score_to_ask_for():
    with pytest.raises(ConfigError, match="needs a grader"):
        is_measured(
            prompts={"source": "rows.jsonl", "grader": "none"}, evaluation={"teacher": True}
        )


def test_a_hint_that_held_out_rows_lack_is_said_or_refused():
    hinted = {"kind": "self", "prompt": "{solution} {prompt}"}
    scores, lines, _ = scores_of(parse(SMALL | {"teacher": hinted}))
    assert scores == []
    assert "the teacher itself is not evaluated" in lines[-1]
    assert "solution" in lines[-1]
    asked_for = parse({"teacher": hinted, "evaluation": {"prompts": 2, "teacher": True}})
    with pytest.raises(UserError, match="solution"):
        scores_of(asked_for)


def test_a_self_teacher_starts_where_its_student_does():
    greedy = {"prompts": 12, "temperatures": [0.0], "teacher": True}
    config = parse(SMALL | {"teacher": {"kind": "self"}, "evaluation": greedy})
    (score, _), _, prompts = scores_of(config)
    loaded = load(config, None, Callbacks())
    writer = Writer(loaded.pair, config, loaded.router)
    students, _, _ = evaluate(writer, replace(prompts, probe=[]), lambda: False)
    assert (score.value, score.n) == (students[0].value, students[0].n)


def test_a_stop_ends_it():
    with pytest.raises(Stopped):
        scores_of(parse(SMALL), stop=lambda: True)
