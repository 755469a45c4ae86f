"""Every objective and teacher says what it is, and what changes it."""

import pytest

from opd.config.run import parse
from opd.config.wording import teacher_name, trained
from opd.loss.objective_table import TRAINABLE


def said(objective, **more):
    return trained(parse({"objective": objective, **more}))


def test_every_objective_says_something_of_its_own():
    texts = {name: said(name) for name in TRAINABLE}
    assert len(set(texts.values())) == len(texts)
    assert texts["reverse_kl"] == (
        "reverse KL(student‖teacher), exact over the vocabulary; student's own samples; "
        "mean over the step's tokens that count"
    )
    assert "teacher's samples" in texts["sft"]


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ({"name": "jsd", "beta": 1}, "reverse KL"),
        ({"name": "jsd", "beta": 0}, "forward KL"),
        ({"name": "jsd", "beta": 0.3}, "β = 0.3"),
        ({"name": "policy_gradient", "gamma": 0.9, "clip": 0.2}, "discount 0.9, ratio clipped"),
        ({"name": "grpo", "reference_kl": 0.1}, "0.1 × k3"),
        ({"name": "reverse_kl", "reward_weight": 0.5}, "0.5 × policy gradient"),
        ({"weighting": {"prefix_share": 0.25, "skip_special": True}}, "first 25%"),
        ({"weighting": {"kl_clip": 2.0}}, "limited to 2 nats"),
        ({"reduction": "sum"}, "sum over the step's tokens"),
        ({"reduction": "sequence_mean"}, "then over completions"),
    ],
)
def test_what_changes_the_loss_is_said(objective, words):
    assert words in said(objective)


def test_mixed_samples_are_said():
    assert "25% of prompts the teacher's" in said("reverse_kl", sampling={"teacher_share": 0.25})


def test_teachers_are_named():

    def name(**teacher):
        return teacher_name(parse({"teacher": teacher, "objective": "sft"}).teacher)

    assert name(model="some/model") == "some/model"
    assert name(kind="self", prompt="{answer} {prompt}") == "own start with a hint"
    remote = {"teacher": {"kind": "remote", "url": "http://x/v1", "model": "big"}}
    config = parse({**remote, "objective": "policy_gradient"})
    assert teacher_name(config.teacher) == "big (server)"
