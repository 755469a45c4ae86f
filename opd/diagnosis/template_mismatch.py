"""Student and teacher disagree about the format: first tokens, tags and special tokens."""

from opd.diagnosis.evidence import (
    CheckResult,
    Evidence,
    clearest,
    mean,
    percent,
    ratio,
    scored,
    unjudged,
)
from opd.diagnosis.run_records import RunRecords

# A teacher that prefers one other opening differs by about 1 nat there, one that reads an unknown
# format by several; in healthy runs these tokens are the most agreed upon of all.
TEMPLATE_KL, TEMPLATE_TIMES, TEMPLATE_SHARE = 2.0, 4.0, 0.1


def check(records: RunRecords) -> CheckResult:
    """KL at the first token of a completion, at tags and at special tokens, but not at its end."""
    where, why = scored(records)
    if why:
        return unjudged(why)
    kl = records.kl
    assert kl is not None
    inside = where & records.template
    here, rest = mean(kl, inside), mean(kl, where & ~inside)
    share = float(kl[inside].sum() / max(float(kl[where].sum()), 1e-9))
    first = mean(kl, where & (records.position == 0))
    return CheckResult(
        [
            Evidence("KL at template tokens", here, "nats", TEMPLATE_KL, "above"),
            Evidence("times that of other tokens", ratio(here, rest), "×", TEMPLATE_TIMES, "above"),
            Evidence("their share of the KL", share, "share", TEMPLATE_SHARE, "above"),
            Evidence("their share of the tokens", mean(inside[where]), "share"),
            Evidence("KL at the first token", first, "nats"),
        ],
        title="Disagreement concentrates in template tokens",
        text="At the first token of a completion, at tags and at special tokens, student and "
        f"teacher differ by {here:.1f} nats, elsewhere by {rest:.1f}: {percent(share)} of the KL "
        f"lies on {percent(mean(inside[where]))} of the tokens. One of the models reads or writes "
        "another format, so the student learns the format instead of the task.",
        advice="Compare the chat templates of both models, prompts.chat, prompts.thinking and "
        "teacher.prompt, and look at a rendered prompt. To keep the student's format, "
        "objective.weighting.skip_special excludes special tokens from the loss.",
        severity="error",
        rollouts=clearest(records, kl, inside, records.preferred),
        filter={"sort": "-kl_max"},
    )
