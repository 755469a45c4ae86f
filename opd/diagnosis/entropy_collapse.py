"""The student's entropy falls far below the teacher's, without a better score."""

from opd.diagnosis.evidence import (
    MIN_STEPS,
    CheckResult,
    Evidence,
    no_gain,
    too_few,
    unjudged,
    worst_late,
)
from opd.diagnosis.run_records import RunRecords

COLLAPSED, BELOW_TEACHER, HAD_ENTROPY = 0.25, 0.33, 0.05


def check(records: RunRecords) -> CheckResult:
    """The student's entropy against its own start and the teacher's, where the score does not rise.

    Healthy distillation lowers it too, down to the teacher's and to a better score.
    """
    student = records.first_and_last("student_entropy")
    teacher = records.first_and_last("teacher_entropy")
    few = too_few("steps", student[2] if student else 0, MIN_STEPS)
    if few or student is None:
        return unjudged(few)
    if teacher is None and records.gain is None:
        return unjudged("needs the teacher's entropy or a score, to tell confidence from collapse")
    first, last, _ = student
    left = last / max(first, 1e-9)
    evidence = [
        Evidence("entropy left, last against first steps", left, "share", COLLAPSED, "below"),
        Evidence("student's entropy, first steps", first, "nats", HAD_ENTROPY, "above"),
    ]
    if teacher is not None:
        times = last / max(teacher[1], 1e-9)
        evidence.append(
            Evidence("times the teacher's, last steps", times, "×", BELOW_TEACHER, "below")
        )
    evidence += [*no_gain(records), Evidence("student's entropy, last steps", last, "nats")]
    return CheckResult(
        evidence,
        title="The student's entropy has collapsed",
        text=f"It fell from {first:.2g} to {last:.2g} nats per token"
        + (f", far below the teacher's {teacher[1]:.2g}" if teacher is not None else "")
        + ", and the score did not rise: the student has settled on a few completions and hardly "
        "tries others.",
        advice="Lower optimizer.learning_rate; use an objective that covers the teacher's whole "
        "distribution (forward_kl, jsd, entropy_aware); raise sampling.temperature.",
        rollouts=worst_late(records),
        filter={"sort": "-step"},
    )
