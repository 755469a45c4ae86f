"""Sampling and training compute different log-probabilities for the same tokens."""

import numpy as np

from opd.diagnosis.evidence import (
    MIN_TOKENS,
    CheckResult,
    Evidence,
    clearest,
    mean,
    too_few,
    unjudged,
)
from opd.diagnosis.run_records import RunRecords

# Nats per token. Both are the same model's log-probability of the same token; what may differ is
# rounding: about 1e-5 in float32, some hundredths in bfloat16, which keeps 8 bits.
GAPS = {"float32": 0.01, "bfloat16": 0.05}


def check(records: RunRecords) -> CheckResult:
    """|student − sampler| at the tokens that the student wrote."""
    student, sampler = records.column("student_logprobs"), records.column("sampler_logprobs")
    if student is None or sampler is None:
        return unjudged("the sampler's log-probabilities were not stored")
    if records.config.get("sampling", {}).get("lag"):
        return unjudged("with sampling.lag the rollouts come from weights of the step before")
    gap = np.abs(student - sampler)
    where = records.counts & np.isfinite(gap)
    few = too_few("tokens", int(where.sum()), MIN_TOKENS)
    if few:
        return unjudged(few)
    dtype = records.config.get("student", {}).get("dtype", "bfloat16")
    limit = GAPS.get(dtype, GAPS["bfloat16"])
    typical, most = mean(gap, where), float(np.quantile(gap[where], 0.99))
    importance_ratio = np.exp(np.clip(student - sampler, -20, 20))
    return CheckResult(
        [
            Evidence("mean difference", typical, "nats", limit, "above"),
            Evidence("99th percentile", most, "nats"),
            Evidence("mean importance ratio", mean(importance_ratio, where)),
        ],
        title="Sampler and trainer disagree about the same tokens",
        text=f"The student's log-probability of a token differs by {typical:.2g} nats on average "
        f"between sampling and training, and by {most:.2g} or more at one token in a hundred. "
        f"Rounding in {dtype} stays below {limit:g}: the samples do not come from the model that "
        "is being trained.",
        advice="Set student.dtype to float32. Check that the sampler uses the weights of the "
        "current step, the same temperature, and no top-p or repetition penalty. Where the "
        "objective supports it, objective.ratio_cap limits the damage.",
        severity="error",
        rollouts=clearest(records, np.nan_to_num(gap), where, "differs by {score:.2f} nats"),
        filter={"sort": "step"},
    )
