"""Signals in how the two models, and the two computations of one of them, compare."""

import numpy as np

from storage.diagnosis.cards import (
    MIN_STEPS,
    MIN_TOKENS,
    Evidence,
    Finding,
    clearest,
    judged,
    mean,
    percent,
    too_few,
    unjudged,
)
from storage.diagnosis.look import Look

# Nats a token. Both are the same model's log-probability of the same token; what may differ is
# rounding: about 1e-5 in float32, some hundredths in bfloat16, which keeps 8 bits.
GAPS = {"float32": 0.01, "bfloat16": 0.05}

LOW_TOP, GAP_CLOSED, FAR_KL = 0.8, 0.15, 0.5
UNSEEN = 1e-4  # the student samples such a token once in ten thousand tries
OFF_MASS, OFF_KL_SHARE = 0.05, 0.4
COLLAPSED, BELOW_COACH, HAD_ENTROPY = 0.25, 0.33, 0.05
LONG, MIN_LONG = 128, 8  # tokens, rollouts
UNSURE, UNSURE_TIMES = 1.0, 2.0


def sampler_mismatch(look: Look) -> Finding:
    """|student − sampler| at the tokens that the student wrote: two computations of one number."""
    code = "sampler-mismatch"
    student, sampler = look.column("student_logprobs"), look.column("sampler_logprobs")
    if student is None or sampler is None:
        return unjudged(code, "the log-probabilities as sampled were not stored")
    gap = np.abs(student - sampler)
    where = look.counts & np.isfinite(gap)
    few = too_few("tokens", int(where.sum()), MIN_TOKENS)
    if few:
        return unjudged(code, few)
    dtype = look.config.get("student", {}).get("dtype", "bfloat16")
    limit = GAPS.get(dtype, GAPS["bfloat16"])
    typical, most = mean(gap, where), float(np.quantile(gap[where], 0.99))
    ratio = np.exp(np.clip(student - sampler, -20, 20))
    return Finding(
        code,
        [
            Evidence("mean difference", typical, "nats", limit, "above"),
            Evidence("99% of the tokens are below", most, "nats"),
            Evidence("mean importance ratio", mean(ratio, where)),
        ],
        title="Sampler and trainer disagree about the same tokens",
        text=f"The student's log-probability of a token differs by {typical:.2g} nats between "
        f"sampling and training, by {most:.2g} at one token in a hundred; rounding in {dtype} "
        f"stays below {limit:g}. The samples are not from the model that is trained.",
        advice="Set student.dtype to float32; check that what sampled has the weights of this "
        "step, the same temperature, and no top-p or repetition penalty. Where the objective has "
        "it, objective.clip limits the harm.",
        severity="error",
        rollouts=clearest(look, np.nan_to_num(gap), where, "differs by {score:.2f} nats here"),
        filter={"sort": "step"},
    )


def overlap_flat(look: Look) -> Finding:
    """The share of tokens with one likeliest token for both, first against last steps."""
    code = "overlap-flat"
    agreed = look.ends_of("same_top")
    if agreed is None:
        return unjudged(code, "the coach's likeliest tokens are not known")
    few = too_few("steps", agreed[2], MIN_STEPS)
    if few:
        return unjudged(code, few)
    start, end, _ = agreed
    closed = (end - start) / max(1 - start, 1e-9)
    kl = look.ends_of("reverse_kl")
    evidence = [
        Evidence("same first choice, first steps", start, "share", LOW_TOP, "below"),
        Evidence("gap to full agreement closed", closed, "share", GAP_CLOSED, "below"),
        *_no_gain(look),
        Evidence("same first choice, last steps", end, "share"),
    ]
    if kl is not None:
        evidence.insert(2, Evidence("KL, last steps", kl[1], "nats", FAR_KL, "above"))
    return Finding(
        code,
        evidence,
        title="The coach does not get through to this student",
        text=f"At the start both had the same first choice at {percent(start)} of the tokens, at "
        f"the end at {percent(end)}"
        + (f", and the KL is still {kl[1]:.1f} nats a token" if kl else "")
        + ". Agreement that is low from the start and does not rise means that the coach judges "
        "answers unlike any it would write, and its signal leads nowhere.",
        advice="Take a coach of the same family and of the same task, or train on the coach's own "
        "answers first (objective sft, or sampling.teacher_share). If the loss hardly moves, "
        "optimizer.learning_rate may be too low.",
        rollouts=_worst(look, "KL {score:.1f} nats"),
        filter={"sort": "-kl_mean"},
    )


def off_support(look: Look) -> Finding:
    """The coach's mass on tokens that the student gives less than UNSEEN, weighted by the KL."""
    code = "off-support"
    where, why = judged(look)
    if why or look.choices is None or look.kl is None:
        return unjudged(code, why or "no alternatives of the coach were stored")
    inner = ~look.frame & look.late[look.owner]
    inner[look.ends[look.stopped]] = False
    where = where & inner
    few = too_few("late tokens", int(where.sum()), MIN_TOKENS // 4)
    if few:
        return unjudged(code, few)
    _, coach, student = look.choices
    mass = (np.exp(coach) * (student < np.log(UNSEEN))).sum(1)
    total = float(look.kl[where].sum())
    share = float((look.kl * mass)[where].sum()) / total if total > 0 else 0.0
    return Finding(
        code,
        [
            Evidence(
                "coach's mass on tokens the student never tries",
                mean(mass, where),
                "share",
                OFF_MASS,
                "above",
            ),
            Evidence("the same, weighted by the KL", share, "share", OFF_KL_SHARE, "above"),
            Evidence("never tries: p(student) below", UNSEEN),
        ],
        title="The coach wants what the student never tries",
        text=f"In the last third of the run, {percent(mean(mass, where))} of the coach's mass, and "
        f"{percent(share)} where they disagree, lies on tokens to which the student gives less "
        f"than {UNSEEN:g}. It will not sample them, so training on its own answers can hardly "
        "teach them.",
        advice="Show the student such answers: sampling.teacher_share, or objective sft first. An "
        "objective that looks at the coach's mass (forward_kl, jsd) reaches those tokens; "
        "policy_gradient cannot.",
        rollouts=clearest(look, look.kl * mass, where & (mass > 0.5), look.wanted),
        filter={"sort": "-kl_max"},
    )


def entropy_collapse(look: Look) -> Finding:
    """The student's entropy against its own start and the coach's, where the score does not rise.

    Healthy distillation lowers it too, down to the coach's and to a better score.
    """
    code = "entropy-collapse"
    own, coach = look.ends_of("student_entropy"), look.ends_of("teacher_entropy")
    few = too_few("steps", own[2] if own else 0, MIN_STEPS)
    if few or own is None:
        return unjudged(code, few)
    if coach is None and look.gain is None:
        return unjudged(code, "neither the coach's entropy nor a score tells sure from collapsed")
    evidence = [
        Evidence(
            "entropy left of that at the start",
            own[1] / max(own[0], 1e-9),
            "share",
            COLLAPSED,
            "below",
        ),
        Evidence("student's entropy, first steps", own[0], "nats", HAD_ENTROPY, "above"),
    ]
    if coach is not None:
        beside = own[1] / max(coach[1], 1e-9)
        evidence.append(
            Evidence("beside the coach's, last steps", beside, "×", BELOW_COACH, "below")
        )
    evidence += [*_no_gain(look), Evidence("student's entropy, last steps", own[1], "nats")]
    return Finding(
        code,
        evidence,
        title="The student's entropy has collapsed",
        text=f"It fell from {own[0]:.2g} to {own[1]:.2g} nats a token"
        + (f", far below the coach's {coach[1]:.2g}" if coach is not None else "")
        + ", and the score did not rise with it: the student has settled on few answers and "
        "hardly tries others.",
        advice="Lower optimizer.learning_rate; take an objective that covers the coach's whole "
        "distribution (forward_kl, jsd, entropy_aware); raise sampling.temperature.",
        rollouts=_worst(look, "KL {score:.1f} nats"),
        filter={"sort": "-step"},
    )


def unsure_late(look: Look) -> Finding:
    """The coach's entropy in the last quarter of long completions, against the first quarter."""
    code = "unsure-late"
    entropy = look.column("teacher_entropy")
    if entropy is None:
        return unjudged(code, "the coach's entropy is not known")
    long = look.own & (look.tokens.lengths >= LONG)
    few = too_few(f"answers of {LONG} tokens", int(long.sum()), MIN_LONG)
    if few:
        return unjudged(code, few)
    where = look.counts & long[look.owner] & np.isfinite(entropy)
    place = look.position / look.tokens.lengths[look.owner]
    first, last = mean(entropy, where & (place < 0.25)), mean(entropy, where & (place >= 0.75))
    return Finding(
        code,
        [
            Evidence("coach's entropy, last quarter", last, "nats", UNSURE, "above"),
            Evidence(
                "times that of the first quarter",
                last / max(first, 1e-9),
                "×",
                UNSURE_TIMES,
                "above",
            ),
            Evidence("coach's entropy, first quarter", first, "nats"),
            Evidence(f"answers of {LONG} tokens or more", float(long.sum())),
        ],
        title="The coach is unsure late in long answers",
        text=f"In answers of {LONG} tokens or more its entropy goes from {first:.2g} nats in the "
        f"first quarter to {last:.2g} in the last: so far into the student's text it does not "
        "know what should come, and its advice there is noise.",
        advice="Train the first part alone (objective.weighting.prefix_share), lower "
        "sampling.max_new_tokens, or use objective entropy_aware.",
        rollouts=clearest(
            look, np.nan_to_num(entropy), where & (place >= 0.75), "entropy {score:.1f} nats here"
        ),
        filter={"sort": "-tokens"},
    )


def _no_gain(look: Look) -> list[Evidence]:
    """That the score has not risen, where there is one."""
    gain = look.gain
    return [] if gain is None else [Evidence("score gained", gain[0], "share", gain[1], "below")]


def _worst(look: Look, why: str) -> list[dict[str, object]]:
    if look.kl is None:
        return []
    return clearest(look, look.kl, look.counts & look.late[look.owner], why)
