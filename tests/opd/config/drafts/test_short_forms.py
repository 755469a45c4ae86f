"""Short forms of a configuration, and assignments on the command line."""

import pytest

from opd.config.drafts.short_forms import with_overrides
from opd.config.run import parse
from opd.errors import UserError


def test_short_forms():
    config = parse(
        {"student": "a/b", "teacher": "c", "prompts": "p.jsonl", "objective": "policy_gradient"}
    )
    assert (config.student.model, config.teacher.model) == ("a/b", "c")
    assert (config.prompts.source, config.objective.name) == ("p.jsonl", "policy_gradient")


def test_overrides():
    data = with_overrides(
        {"student": "a/b", "steps": 3},
        [
            "steps=7",
            "student.lora.rank=8",
            "optimizer.learning_rate=1e-4",
            "evaluation.temperatures=[0.5]",
            "name=run 3",
        ],
    )
    config = parse(data)
    assert config.steps == 7
    assert config.student.model == "a/b"
    assert config.student.lora.rank == 8
    assert config.optimizer.learning_rate == 1e-4
    assert config.evaluation.temperatures == [0.5]
    assert config.name == "run 3"
    for bad in ("steps", "=3", "a=[1"):
        with pytest.raises(UserError, match="--set"):
            with_overrides({}, [bad])


def test_overrides_leave_the_original_alone():
    data = {"optimizer": {"learning_rate": 1.0}}
    with_overrides(data, ["optimizer.learning_rate=0.5"])
    assert data == {"optimizer": {"learning_rate": 1.0}}
