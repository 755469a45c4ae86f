"""The student repeats itself, and the teacher expects the repetition."""

import numpy as np

from opd.diagnosis.evidence import (
    NO_TEACHER,
    CheckResult,
    Evidence,
    clearest,
    mean,
    percent,
    too_few,
    unjudged,
)
from opd.diagnosis.run_records import Bools, Floats, RunRecords

REPEATS, LOOP_TOKENS, LONGEST_PERIOD = 4, 12, 64
LOOP_PART = 0.25  # of a completion: less may be a table or a list
LOOP_SHARE = 0.1
ENDORSED = 0.5  # above it the teacher would, on average, have repeated the span as well
MIN_ROLLOUTS = 16


def check(records: RunRecords) -> CheckResult:
    """Spans that repeat at least REPEATS times, and how likely the teacher finds them."""
    late = records.late & records.by_student
    if late.sum() < MIN_ROLLOUTS:
        late = records.by_student
    few = too_few("completions", int(late.sum()), MIN_ROLLOUTS)
    if few:
        return unjudged(few)
    teacher = records.column("teacher_logprobs")
    if teacher is None:
        return unjudged(NO_TEACHER)
    looped = looping(records) & records.counts & late[records.owner]
    looped &= _in_rollout(records, looped) >= LOOP_PART * records.tokens.lengths[records.owner]
    share = len(np.unique(records.owner[looped])) / int(late.sum())
    liked = mean(np.exp(teacher), looped)
    kl = records.kl if records.kl is not None else np.zeros(len(teacher))
    rest = records.counts & late[records.owner] & ~looped
    starts = looped & ~np.concatenate([[False], looped[:-1]])
    return CheckResult(
        [
            Evidence("completions that loop", share, "share", LOOP_SHARE, "above"),
            Evidence("teacher's p of the repeated tokens", liked, "", ENDORSED, "above"),
            Evidence("KL at repeated tokens", mean(kl, looped), "nats"),
            Evidence("KL at other tokens", mean(kl, rest), "nats"),
        ],
        title="The student repeats itself, and the teacher endorses it",
        text=f"{percent(share)} of the completions repeat a span {REPEATS} times or more. The "
        f"teacher gives the repeated tokens {liked:.2f} on average: once a loop has begun it "
        "expects the loop, so the KL there is low and nothing teaches the student to leave it.",
        advice="Lower sampling.max_new_tokens, so that loops make up less of the loss; mix in "
        "completions written by the teacher (sampling.teacher_share), or start from a student "
        "that does not loop (objective sft on the teacher's completions first). "
        "objective.weighting.prefix_share trains only the part before the loop.",
        rollouts=clearest(
            records, _in_rollout(records, looped), starts, "starts to loop; {score:.0f} tokens"
        ),
        filter={"sort": "-tokens"},
    )


def looping(records: RunRecords) -> Bools:
    """(N,): tokens that repeat an earlier span of their rollout, from its second time on."""
    ids, owner = records.ids, records.owner
    looped = np.zeros(len(ids), bool)
    for period in range(1, min(LONGEST_PERIOD, len(ids) - 1) + 1):
        same = np.zeros(len(ids) + 2, np.int8)
        same[1 + period : -1] = (ids[period:] == ids[:-period]) & (
            owner[period:] == owner[:-period]
        )
        turns = np.diff(same)
        starts, ends = np.flatnonzero(turns == 1), np.flatnonzero(turns == -1)
        long = ends - starts >= max((REPEATS - 1) * period, LOOP_TOKENS - period)
        for start, end in zip(starts[long], ends[long], strict=True):
            looped[start:end] = True
    return looped


def _in_rollout(records: RunRecords, where: Bools) -> Floats:
    """(N,): how many tokens of `where` (N,) lie in the token's rollout."""
    counts = np.bincount(records.owner[where], minlength=max(1, len(records.tokens.lengths)))
    return counts[records.owner].astype(np.float64)
