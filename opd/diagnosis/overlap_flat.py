"""Student and teacher agree rarely, and no more often at the end than at the start."""

from opd.diagnosis.evidence import (
    MIN_STEPS,
    CheckResult,
    Evidence,
    no_gain,
    percent,
    too_few,
    unjudged,
    worst_late,
)
from opd.diagnosis.run_records import RunRecords

LOW_TOP, GAP_CLOSED, FAR_KL = 0.8, 0.15, 0.5


def check(records: RunRecords) -> CheckResult:
    """How often both models have the same top token, first against last steps."""
    agreed = records.first_and_last("same_top")
    if agreed is None:
        return unjudged("the teacher's most likely tokens are not known")
    few = too_few("steps", agreed[2], MIN_STEPS)
    if few:
        return unjudged(few)
    start, end, _ = agreed
    closed = (end - start) / max(1 - start, 1e-9)
    kl = records.first_and_last("reverse_kl")
    evidence = [
        Evidence("same top token, first steps", start, "share", LOW_TOP, "below"),
        Evidence("gap to full agreement closed", closed, "share", GAP_CLOSED, "below"),
        *no_gain(records),
        Evidence("same top token, last steps", end, "share"),
    ]
    if kl is not None:
        evidence.insert(2, Evidence("KL, last steps", kl[1], "nats", FAR_KL, "above"))
    return CheckResult(
        evidence,
        title="The student does not get closer to the teacher",
        text=f"At the start both models had the same top token at {percent(start)} of the tokens, "
        f"at the end at {percent(end)}"
        + (f", and the KL is still {kl[1]:.1f} nats per token" if kl else "")
        + ". Agreement that starts low and does not rise means that the teacher judges completions "
        "unlike any it would write, and that its signal leads nowhere.",
        advice="Use a teacher of the same family and task, or train on the teacher's own "
        "completions first (objective sft, or sampling.teacher_share). If the loss hardly moves, "
        "optimizer.learning_rate may be too low.",
        rollouts=worst_late(records),
        filter={"sort": "-kl_mean"},
    )
