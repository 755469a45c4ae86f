"""The teacher does not know how to continue late in the student's long completions."""

import numpy as np

from opd.diagnosis.evidence import CheckResult, Evidence, clearest, mean, too_few, unjudged
from opd.diagnosis.run_records import RunRecords

LONG, MIN_LONG = 128, 8  # tokens, rollouts
UNSURE, UNSURE_TIMES = 1.0, 2.0


def check(records: RunRecords) -> CheckResult:
    """The teacher's entropy in the last quarter of long completions, against the first quarter."""
    entropy = records.column("teacher_entropy")
    if entropy is None:
        return unjudged("the teacher's entropy is not known")
    long = records.by_student & (records.tokens.lengths >= LONG)
    few = too_few(f"completions of {LONG} tokens or more", int(long.sum()), MIN_LONG)
    if few:
        return unjudged(few)
    where = records.counts & long[records.owner] & np.isfinite(entropy)
    part = records.position / records.tokens.lengths[records.owner]
    first, last = mean(entropy, where & (part < 0.25)), mean(entropy, where & (part >= 0.75))
    times = last / max(first, 1e-9)
    return CheckResult(
        [
            Evidence("teacher's entropy, last quarter", last, "nats", UNSURE, "above"),
            Evidence("times that of the first quarter", times, "×", UNSURE_TIMES, "above"),
            Evidence("teacher's entropy, first quarter", first, "nats"),
            Evidence(f"completions of {LONG} tokens or more", float(long.sum())),
        ],
        title="The teacher is unsure late in long completions",
        text=f"In completions of {LONG} tokens or more its entropy rises from {first:.2g} nats in "
        f"the first quarter to {last:.2g} in the last: that far into the student's text it does "
        "not know what should come next, and its signal is noise.",
        advice="Train only the first part (objective.weighting.prefix_share), lower "
        "sampling.max_new_tokens, or use objective entropy_aware.",
        rollouts=clearest(
            records, np.nan_to_num(entropy), where & (part >= 0.75), "entropy {score:.1f} nats"
        ),
        filter={"sort": "-tokens"},
    )
