"""The teacher's mass lies on tokens that the student never samples."""

import numpy as np

from opd.diagnosis.evidence import (
    MIN_TOKENS,
    CheckResult,
    Evidence,
    clearest,
    mean,
    percent,
    scored,
    too_few,
    unjudged,
)
from opd.diagnosis.run_records import RunRecords

UNSEEN = 1e-4  # the student samples such a token once in ten thousand tries
OFF_MASS, OFF_KL_SHARE = 0.05, 0.4


def check(records: RunRecords) -> CheckResult:
    """The teacher's mass on tokens to which the student gives less than UNSEEN, also weighted by
    the KL; of the last third of the steps, without template tokens and ends."""
    where, why = scored(records)
    if why or records.teacher_topk is None or records.kl is None:
        return unjudged(why or "the teacher's alternatives were not stored")
    inner = ~records.template & records.late[records.owner]
    inner[records.last[records.finished]] = False
    where = where & inner
    few = too_few("late tokens", int(where.sum()), MIN_TOKENS // 4)
    if few:
        return unjudged(few)
    _, teacher, student = records.teacher_topk
    mass = (np.exp(teacher) * (student < np.log(UNSEEN))).sum(1)
    total = float(records.kl[where].sum())
    share = float((records.kl * mass)[where].sum()) / total if total > 0 else 0.0
    return CheckResult(
        [
            Evidence(
                "teacher's mass on tokens the student never samples",
                mean(mass, where),
                "share",
                OFF_MASS,
                "above",
            ),
            Evidence("the same, weighted by the KL", share, "share", OFF_KL_SHARE, "above"),
            Evidence("never samples: p(student) below", UNSEEN),
        ],
        title="The teacher prefers tokens that the student never samples",
        text=f"In the last third of the run, {percent(mean(mass, where))} of the teacher's mass, "
        f"and {percent(share)} weighted by the KL, lies on tokens to which the student gives less "
        f"than {UNSEEN:g}. It will not sample them, so training on its own completions can hardly "
        "teach them.",
        advice="Show the student such completions: sampling.teacher_share, or objective sft first. "
        "Objectives that weight by the teacher's mass (forward_kl, jsd) reach those tokens; "
        "policy_gradient cannot.",
        rollouts=clearest(records, records.kl * mass, where & (mass > 0.5), records.preferred),
        filter={"sort": "-kl_max"},
    )
