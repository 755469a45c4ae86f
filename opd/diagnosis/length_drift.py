"""Completions grow until they are truncated, or are truncated all along."""

from typing import Any

import numpy as np

from opd.diagnosis.evidence import (
    MAX_LINKS,
    MIN_STEPS,
    CheckResult,
    Evidence,
    percent,
    too_few,
    unjudged,
)
from opd.diagnosis.run_records import RunRecords

GROWTH, CUT_SHARE, CUT_MORE = 1.5, 0.25, 0.1
CUT_MOST = 0.5  # published runs with some truncation work; here most completions never see an end


def check(records: RunRecords) -> CheckResult:
    """Completion lengths and the share of finished ones, first against last steps."""
    tokens = records.first_and_last("completion_tokens")
    finished = records.first_and_last("finished")
    few = too_few("steps", tokens[2] if tokens else 0, MIN_STEPS)
    if few or tokens is None or finished is None:
        return unjudged(few or "the steps do not say how many completions finished")
    cut = (1 - finished[0], 1 - finished[1])
    growth = tokens[1] / max(tokens[0], 1e-9)
    lengths = [
        Evidence("tokens per completion, first steps", tokens[0], "tokens"),
        Evidence("tokens per completion, last steps", tokens[1], "tokens"),
    ]
    if cut[1] >= CUT_MOST or growth < GROWTH:
        evidence = [
            Evidence("truncated, last steps", cut[1], "share", CUT_MOST, "above"),
            Evidence("truncated, first steps", cut[0], "share"),
        ]
    else:
        evidence = [
            Evidence("growth in length", growth, "×", GROWTH, "above"),
            Evidence("truncated, last steps", cut[1], "share", CUT_SHARE, "above"),
            Evidence("increase over the first steps", cut[1] - cut[0], "share", CUT_MORE, "above"),
        ]
    limit = records.config.get("sampling", {}).get("max_new_tokens")
    return CheckResult(
        [*evidence, *lengths],
        title="Most completions are truncated"
        if growth < GROWTH
        else "Completions grow until they are truncated",
        text=f"{percent(cut[1])} of the completions reach the limit"
        + (f" of {limit} tokens" if limit else "")
        + f" at the end of the run, {percent(cut[0])} at its start; their length went from "
        f"{tokens[0]:.0f} to {tokens[1]:.0f} tokens. Truncated completions contain no end token, "
        "and are graded as they are.",
        advice="Raise sampling.max_new_tokens if the completions are sound. If they ramble or "
        "never end, compare the stop tokens and look for repetition first.",
        rollouts=_truncated(records),
        filter={"finish_reason": "length", "sort": "-tokens"},
    )


def _truncated(records: RunRecords) -> list[dict[str, Any]]:
    """Links to the last tokens of the longest ones, late ones where there are any."""
    lengths = records.tokens.lengths
    rollouts = np.flatnonzero(~records.finished & records.by_student & (lengths > 0))
    late = rollouts[records.late[rollouts]]
    longest = sorted(late if len(late) else rollouts, key=lambda r: -int(lengths[r]))
    return [
        records.link(int(r), int(records.last[r]), f"truncated after {lengths[r]} tokens")
        for r in longest[:MAX_LINKS]
    ]
