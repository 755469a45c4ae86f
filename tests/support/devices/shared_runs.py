"""Whole runs of a tiny pair, by one process and by several, and how alike they must be."""

import numpy as np
import pytest
from safetensors.torch import load_file

from opd.config.run import parse
from opd.training.trainer import Training
from opd.types import CheckpointEvent, EvaluationEvent, StepEvent

STUDENTS = {"all weights": {}, "adapter": {"lora": {"rank": 4}}}


def settings(inputs, **changes):
    return parse(
        {
            "student": {"model": str(inputs / "student"), **changes.pop("student", {})},
            "teacher": str(inputs / "teacher"),
            "prompts": str(inputs / "prompts.jsonl"),
            "steps": 8,
            "device": "cpu",
            "threads": 1,
            "sampling": {"prompts_per_step": 3, "group_size": 3, "max_new_tokens": 8},
            "evaluation": {"prompts": 3, "every": 4, "keep": 2, "teacher": False},
            "checkpoints": {"every": 4, "keep": 2},
            "optimizer": {"learning_rate": 1e-3},
            **changes,
        }
    )


def sharded(config):
    return config.model_copy(update={"sharding": "full"})


def trained(ranks, *, config, folder, resume_from=None):
    """The events of a run but for its clock."""
    return list(Training(config, folder, ranks=ranks, resume_from=resume_from).events())


def of(kind, events):
    return [e for e in events if isinstance(e, kind)]


def assert_alike(one, several, weights_apart=1e-4):
    first, *others = zip(of(StepEvent, one), of(StepEvent, several), strict=True)
    a, b = first
    for x, y in zip(a.rollouts, b.rollouts, strict=True):
        np.testing.assert_array_equal(x.record.completion_ids, y.record.completion_ids)
    assert b.metrics["grad_norm"] == pytest.approx(a.metrics["grad_norm"], rel=1e-5)
    for a, b in (first, *others):
        assert b.metrics["loss"] == pytest.approx(a.metrics["loss"], rel=1e-5, abs=1e-7)
        for x, y in zip(a.rollouts, b.rollouts, strict=True):
            np.testing.assert_allclose(
                x.record.student_logprobs, y.record.student_logprobs, atol=1e-4
            )
    for a, b in zip(of(EvaluationEvent, one), of(EvaluationEvent, several), strict=True):
        assert a.scores == b.scores
        assert [r.completion for r in a.rollouts] == [r.completion for r in b.rollouts]
    for a, b in zip(of(CheckpointEvent, one), of(CheckpointEvent, several), strict=True):
        assert a.step == b.step
        assert set(a.manifest) == set(b.manifest)
        for name in a.manifest:
            if name.endswith(".safetensors"):
                assert_files_alike(f"{a.path}/{name}", f"{b.path}/{name}", weights_apart)


def assert_files_alike(one, other, apart):
    """The same tensors by name, shape and dtype; each within `apart` of the other, relatively."""
    old, new = load_file(one), load_file(other)
    assert {n: (t.shape, t.dtype) for n, t in old.items()} == {
        n: (t.shape, t.dtype) for n, t in new.items()
    }
    for key, tensor in old.items():
        difference = (tensor - new[key]).double().norm()
        assert float(difference) <= apart * float(tensor.double().norm()) + 1e-12, key
