"""The figures of a step against sums made here."""

import numpy as np
import pytest

from opd.config.run import parse
from opd.data.prompts import Prompt
from opd.sampling.sample import Sample
from opd.training.rollouts import Completion
from opd.training.step.metrics import step_metrics
from opd.training.update import Update
from opd.types import TokenRecord

SAMPLED = [np.float32([-1, -2, -0.5]), np.float32([-3, -0.1])]
TRAINED = [np.float32([-1, -1, -0.75]), np.float32([-2.5, -0.1])]
RATIOS = np.exp(np.concatenate(TRAINED) - np.concatenate(SAMPLED))


def figures(**objective):
    completions = [
        Completion(Prompt(i, "", (5,), None), 0, Sample(np.arange(len(s)), s, "stop"), "", None)
        for i, s in enumerate(SAMPLED)
    ]
    records = [
        TokenRecord(np.arange(len(s)), sampler_logprobs=s, student_logprobs=t)
        for s, t in zip(SAMPLED, TRAINED, strict=True)
    ]
    config = parse({"objective": {"name": "policy_gradient", **objective}})
    return step_metrics(config, completions, Update(records, None, 1.0, 2.0), 1e-3)


def test_importance_ratios_mean_largest_and_truncated():
    ratios = figures(ratio_cap=1.5)
    assert ratios["sampler_gap"] == 1
    assert ratios["importance_ratio"] == pytest.approx(RATIOS.mean(), rel=1e-6)
    assert ratios["importance_ratio_max"] == pytest.approx(np.e, rel=1e-6)
    assert ratios["ratio_truncated"] == pytest.approx(2 / 5)  # e and √e
    assert figures(ratio_cap=2.0)["ratio_truncated"] == pytest.approx(1 / 5)


def test_what_is_not_set_is_not_told():
    assert "ratio_truncated" not in figures()
    kl = figures(name="reverse_kl")
    assert "importance_ratio" in kl and "importance_ratio_max" not in kl
