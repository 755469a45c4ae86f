"""The figures of one step."""

from collections.abc import Sequence

import numpy as np

from opd.config.run import RunConfig
from opd.sampling.ahead import AheadSampler
from opd.sampling.samplers import Sampler
from opd.training.records import all_tokens
from opd.training.rollouts import Completion
from opd.training.update import Update


def step_metrics(
    config: RunConfig, completions: Sequence[Completion], done: Update, rate: float
) -> dict[str, float]:
    """The step's figures; per-token ones are means over all completion tokens, in nats."""

    def all_of(name: str) -> np.ndarray | None:
        return all_tokens(done.records, name)

    student, teacher = all_of("student_logprobs"), all_of("teacher_logprobs")
    assert student is not None
    metrics = {
        "loss": done.loss,
        "grad_norm": done.grad_norm,
        "learning_rate": rate,
        "completion_tokens": float(np.mean([len(r) for r in done.records])),
        "finished": float(np.mean([c.sample.finish_reason == "stop" for c in completions])),
    }
    for name in ("reverse_kl", "student_entropy", "teacher_entropy"):
        values = all_of(name)
        if values is not None:
            metrics[name] = float(values.mean())
    if teacher is not None:
        metrics["log_ratio"] = float((student - teacher).mean())
    if done.same_top is not None:
        metrics["same_top"] = done.same_top
    gaps = [
        r.student_logprobs - r.sampler_logprobs
        for c, r in zip(completions, done.records, strict=True)
        if c.author == "student"
        and r.student_logprobs is not None
        and r.sampler_logprobs is not None
    ]
    if gaps:
        gap = np.concatenate(gaps)
        metrics["sampler_gap"] = float(np.abs(gap).max())
        ratio = np.exp(gap)
        metrics["importance_ratio"] = float(ratio.mean())
        if config.objective_entry.importance_ratio:
            metrics["importance_ratio_max"] = float(ratio.max())
        if config.objective.ratio_cap is not None:
            metrics["ratio_truncated"] = float((ratio > config.objective.ratio_cap).mean())
    rewards = [c.reward for c in completions if c.reward is not None]
    if rewards:
        metrics["reward"] = float(np.mean(rewards))
    if any(c.author != "student" for c in completions):
        metrics["by_teacher"] = float(np.mean([c.author == "teacher" for c in completions]))
    if config.sampling.lag:
        metrics["staleness"] = float(np.mean([c.sample.staleness for c in completions]))
    return metrics


def overlap_metrics(sampler: Sampler | None) -> dict[str, float]:
    """What the step's completions took, where they were written beside the training."""
    took = sampler.took if isinstance(sampler, AheadSampler) else None
    return {} if took is None else {"writing_seconds": took}
