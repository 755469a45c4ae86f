"""Student and teacher end their completions with different tokens."""

import numpy as np
from numpy.typing import NDArray

from opd.diagnosis.evidence import (
    NO_TEACHER,
    CheckResult,
    Evidence,
    clearest,
    mask_of,
    mean,
    percent,
    scored,
    too_few,
    unjudged,
)
from opd.diagnosis.run_records import PART, Bools, Floats, RunRecords

MIN_ENDS = 8
END_PROBABILITY = 0.01  # two models with one end give it most of their mass where one of them ends
END_OTHER_SHARE = 0.5
READS_WELL = 0.25  # a teacher that finds all tokens unlikely says nothing about ends
SURE_STOP = 0.5
CONTINUES_SHARE = 0.25  # of the rollouts, in which the student continues past the teacher's end
Indices = NDArray[np.int64]  # of some of the N tokens


def check(records: RunRecords) -> CheckResult:
    """The teacher's p(end) where the student ended; first, ends of the teacher that end nothing."""
    where, why = scored(records)
    teacher = records.column("teacher_logprobs")
    if why or teacher is None:
        return unjudged(why or NO_TEACHER)
    passed = _passed_ends(records, where)
    share = len(np.unique(records.owner[passed])) / max(1, int(records.by_student.sum()))
    if share >= CONTINUES_SHARE:
        return _continues(records, passed, share)
    ends = records.last[records.finished]
    ends = ends[where[ends]]
    few = too_few("finished completions", len(ends), MIN_ENDS)
    if few:
        return unjudged(few)
    return _other_end(records, np.exp(teacher), ends, where & ~mask_of(ends, records))


def _other_end(
    records: RunRecords, teacher: Floats, ends: Indices, elsewhere: Bools
) -> CheckResult:
    """`teacher` (N,): its probabilities of the tokens as written."""
    at_ends, at_others = mean(teacher[ends]), mean(teacher, elsewhere)
    end = records.text(int(records.ids[ends[0]]))
    other, share = _preferred_special(records, ends)
    if share >= END_OTHER_SHARE:
        title = "Student and teacher end with different tokens"
        instead = f"and preferred {other} at {percent(share)} of {len(ends)} ends"
        advice = (
            f"Set teacher.end_token: {other}, which the teacher then reads in place of {end}, or "
            "use a student and a teacher of the same kind (both base, or both tuned for chats)."
        )
        second = Evidence("ends where it prefers another", share, "share", END_OTHER_SHARE, "above")
    else:
        title = "The teacher does not end where the student ends"
        instead = f"and {at_others:.2f} to the student's other tokens"
        advice = (
            "Compare eos_token_id in both models' generation_config.json, and check whether the "
            "teacher expects longer completions."
        )
        second = Evidence("teacher's p at other tokens", at_others, "", READS_WELL, "above")
    label = "teacher's p(end) at the student's ends"
    return CheckResult(
        [
            Evidence(label, at_ends, "", END_PROBABILITY, "below"),
            second,
            Evidence("finished completions", float(len(ends))),
        ],
        title=title,
        text=f"Where the student ended with {end}, the teacher gave that token "
        f"{_probability(at_ends)} on average {instead}. The student is being taught not to stop, "
        "and its completions will grow to the limit.",
        advice=f"{advice} `opd doctor` compares the end tokens before a run.",
        severity="error",
        rollouts=clearest(records, -teacher, mask_of(ends, records), records.preferred),
        filter={"finish_reason": "stop", "sort": "-kl_max"},
    )


def _continues(records: RunRecords, passed: Indices, share: float) -> CheckResult:
    end, _ = _preferred_special(records, passed)
    given = _students_probability(records, passed)
    writes_it = given is None or given >= END_PROBABILITY
    return CheckResult(
        [
            Evidence(
                "completions that pass the teacher's end", share, "share", CONTINUES_SHARE, "above"
            ),
            Evidence("positions where the teacher would end", float(len(passed))),
        ],
        title="The student continues past the teacher's end",
        text=f"In {percent(share)} of the completions the teacher gave {end} more than "
        f"{SURE_STOP:g} before the completion was truncated; for the student, that token ends "
        "nothing.",
        advice=f"Add {end} to sampling.stop_ids, or to eos_token_id in generation_config.json of "
        "student.model."
        if writes_it
        else f"Set teacher.end_token: {end}, which the teacher then reads in place of the "
        f"student's stop token. Adding it to sampling.stop_ids does not help: the student gives it "
        f"{_probability(given or 0.0)}.",
        severity="error",
        rollouts=clearest(
            records,
            -records.position.astype(float),
            mask_of(passed, records),
            records.preferred,
        ),
        filter={"finish_reason": "length", "sort": "-tokens"},
    )


def _passed_ends(records: RunRecords, where: Bools) -> Indices:
    """Tokens of truncated completions at which the teacher is sure of a special token that ends
    none of the student's completions."""
    if records.teacher_topk is None:
        return np.zeros(0, np.int64)
    ids, logprobs, _ = records.teacher_topk
    ending = {*records.ids[records.last[records.finished]].tolist()}
    top = ids[:, 0].astype(np.int64)
    end = records.is_special(top) & ~records.is_tag(top, PART) & ~np.isin(top, list(ending))
    truncated = ~records.finished[records.owner]
    return np.flatnonzero(where & truncated & end & (np.exp(logprobs[:, 0]) > SURE_STOP))


def _preferred_special(records: RunRecords, tokens: Indices) -> tuple[str, float]:
    """The special token that the teacher prefers at most of these tokens, and at which share of
    them; where they are ends, other than the one that was written."""
    if records.teacher_topk is None or not len(tokens):
        return "", 0.0
    top = records.teacher_topk[0][tokens, 0].astype(np.int64)
    at_ends = records.finished[records.owner[tokens[0]]]
    written = records.ids[tokens] if at_ends else np.full(len(top), -1)
    other = top[records.is_special(top) & (top != written)]
    if not len(other):
        return "", 0.0
    values, counts = np.unique(other, return_counts=True)
    return records.text(int(values[counts.argmax()])), float(counts.max() / len(tokens))


def _students_probability(records: RunRecords, tokens: Indices) -> float | None:
    """Of the teacher's likeliest tokens there, on average; None where it was not recorded."""
    if records.teacher_topk is None:
        return None
    given = np.exp(records.teacher_topk[2][tokens, 0])
    return float(given.mean()) if np.isfinite(given).all() else None


def _probability(value: float) -> str:
    return "less than 0.001" if value < 0.001 else f"{value:.2g}"
