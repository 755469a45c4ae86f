"""Signals in what was written: template tokens, ends, loops, lengths."""

import numpy as np

from storage.diagnosis.cards import (
    MAX_LINKS,
    MIN_STEPS,
    Evidence,
    Finding,
    clearest,
    judged,
    mean,
    percent,
    probability,
    too_few,
    unjudged,
)
from storage.diagnosis.look import PART, Bools, Floats, Look

# A teacher that likes one other opening differs by about 1 nat there, one that reads an unknown
# format by several; in healthy runs these tokens are the most agreed upon of all.
TEMPLATE_KL, TEMPLATE_TIMES, TEMPLATE_SHARE = 2.0, 4.0, 0.1

MIN_ENDS = 8
END_PROBABILITY = 0.01  # two models with one end give it most of their mass where one of them ends
END_OTHER_SHARE = 0.5
READS_WELL = 0.25  # a coach that finds all tokens unlikely says nothing of ends
SURE_STOP = 0.5
GOES_ON_SHARE = 0.25  # of the rollouts, in which the student writes on after the coach's end

REPEATS, LOOP_TOKENS, LONGEST_PERIOD = 4, 12, 64
LOOP_PART = 0.25  # of an answer: less may be a table or a list
LOOP_SHARE = 0.1
ENDORSED = 0.5  # above it the coach would, on average, have gone round as well
MIN_ROLLOUTS = 16

GROWTH, CUT_SHARE, CUT_MORE = 1.5, 0.25, 0.1
CUT_MOST = 0.5  # published runs with some answers cut work; here most never see an end


def template_mismatch(look: Look) -> Finding:
    """KL at the first token of a completion and at tags and special tokens, its end aside."""
    code = "template-mismatch"
    where, why = judged(look)
    if why:
        return unjudged(code, why)
    kl = look.kl
    assert kl is not None
    inside = where & look.frame
    here, rest = mean(kl, inside), mean(kl, where & ~inside)
    share = float(kl[inside].sum() / max(float(kl[where].sum()), 1e-9))
    first = mean(kl, where & (look.position == 0))
    return Finding(
        code,
        [
            Evidence("KL at template tokens", here, "nats", TEMPLATE_KL, "above"),
            Evidence(
                "times that of other tokens", _ratio(here, rest), "×", TEMPLATE_TIMES, "above"
            ),
            Evidence("their share of the KL", share, "share", TEMPLATE_SHARE, "above"),
            Evidence("their share of the tokens", mean(inside[where]), "share"),
            Evidence("KL at the first token", first, "nats"),
        ],
        title="The disagreement sits in template tokens",
        text=f"At the first token of an answer, at tags and at special tokens coach and student "
        f"differ by {here:.1f} nats, elsewhere by {rest:.1f}: {percent(share)} of the KL on "
        f"{percent(mean(inside[where]))} of the tokens. One of them reads or writes another "
        "format; what is learnt is the format, not the task.",
        advice="Compare the chat templates of both models, prompts.chat and prompts.thinking, and "
        "teacher.prompt; look at a prompt as it is rendered. If the format is meant to stay, "
        "objective.weighting.skip_special leaves special tokens out of the loss.",
        severity="error",
        rollouts=clearest(look, kl, inside, look.wanted),
        filter={"sort": "-kl_max"},
    )


def stop_mismatch(look: Look) -> Finding:
    """p(end) by the coach where the student ended; else, ends of the coach that end nothing."""
    code = "stop-mismatch"
    where, why = judged(look)
    teacher = look.column("teacher_logprobs")
    if why or teacher is None:
        return unjudged(code, why or "no coach read these tokens")
    coach = np.exp(teacher)
    ends = look.ends[look.stopped]
    ends = ends[where[ends]]
    passed = _passed_ends(look, where)
    in_rollouts = len(np.unique(look.owner[passed])) / max(1, int(look.own.sum()))
    if in_rollouts >= GOES_ON_SHARE:
        return _goes_on(look, passed, in_rollouts)
    few = too_few("finished answers", len(ends), MIN_ENDS)
    if few:
        return unjudged(code, few)
    others = where.copy()
    others[ends] = False
    return _other_end(look, coach, ends, mean(coach, others))


def _other_end(look: Look, coach: Floats, ends: np.ndarray, elsewhere: float) -> Finding:
    given = mean(coach[ends])
    mine = look.text(int(look.ids[ends[0]]))
    name, share = _choice_at(look, ends)
    other = share >= END_OTHER_SHARE
    if other:
        title = "Coach and student end answers with different tokens"
        wanted = f"and wanted {name} at {percent(share)} of {len(ends)} ends"
        advice = (
            f"Put {name} first in eos_token_id of the student's generation_config.json, beside its "
            "own, or take a student and a coach of one kind."
        )
        beside = Evidence(
            "ends at which it wants another", share, "share", END_OTHER_SHARE, "above"
        )
    else:
        title = "The coach does not end where the student ends"
        wanted = f"and {elsewhere:.2f} to the student's other tokens"
        advice = (
            "Compare eos_token_id in both models' generation_config.json, and whether the coach "
            "expects longer answers."
        )
        beside = Evidence("coach's p at other tokens", elsewhere, "", READS_WELL, "above")
    return Finding(
        "stop-mismatch",
        [
            Evidence("coach's p(end) at the student's ends", given, "", END_PROBABILITY, "below"),
            beside,
            Evidence("finished answers", float(len(ends))),
        ],
        title=title,
        text=f"Where the student ended with {mine}, the coach gave that {probability(given)} on "
        f"average {wanted}. The student is taught not to stop, and its answers will grow to the "
        "limit.",
        advice=f"{advice} The command opd doctor compares the ends before a run.",
        severity="error",
        rollouts=clearest(look, -coach, _at(look, ends), look.wanted),
        filter={"finish_reason": "stop", "sort": "-kl_max"},
    )


def _goes_on(look: Look, passed: np.ndarray, share: float) -> Finding:
    name, _ = _choice_at(look, passed)
    return Finding(
        "stop-mismatch",
        [
            Evidence("answers that pass the coach's end", share, "share", GOES_ON_SHARE, "above"),
            Evidence("places at which the coach wanted to end", float(len(passed))),
        ],
        title="The student goes on where the coach ends",
        text=f"In {percent(share)} of the answers the coach gave {name} more than {SURE_STOP:g} "
        "before the answer was cut off; for the student that token ends nothing.",
        advice=f"Add {name} to sampling.stop_ids, or to eos_token_id in generation_config.json of "
        "student.model.",
        severity="error",
        rollouts=clearest(look, -look.position.astype(float), _at(look, passed), look.wanted),
        filter={"finish_reason": "length", "sort": "-tokens"},
    )


def _passed_ends(look: Look, where: Bools) -> np.ndarray:
    """Tokens of answers that were cut off at which the coach is sure of a special token that ends
    none of the student's answers."""
    if look.choices is None:
        return np.zeros(0, np.int64)
    ids, logprobs, _ = look.choices
    ending = {*look.ids[look.ends[look.stopped]].tolist()}
    first = ids[:, 0].astype(np.int64)
    wanted = look.is_special(first) & ~look.is_tag(first, PART) & ~np.isin(first, list(ending))
    cut = ~look.stopped[look.owner]
    return np.flatnonzero(where & cut & wanted & (np.exp(logprobs[:, 0]) > SURE_STOP))


def _choice_at(look: Look, places: np.ndarray) -> tuple[str, float]:
    """The special token that the coach likes best at most of these places, and at which share;
    what was written there aside."""
    if look.choices is None or not len(places):
        return "", 0.0
    best = look.choices[0][places, 0].astype(np.int64)
    written = look.ids[places] if look.stopped[look.owner[places[0]]] else np.full(len(best), -1)
    other = best[look.is_special(best) & (best != written)]
    if not len(other):
        return "", 0.0
    values, counts = np.unique(other, return_counts=True)
    return look.text(int(values[counts.argmax()])), float(counts.max() / len(places))


def repetition(look: Look) -> Finding:
    """Spans that go round at least REPEATS times, and what the coach thinks of them."""
    code = "endorsed-repetition"
    late = look.late & look.own
    if late.sum() < MIN_ROLLOUTS:
        late = look.own
    few = too_few("answers", int(late.sum()), MIN_ROLLOUTS)
    if few:
        return unjudged(code, few)
    looped = looping(look) & look.counts & late[look.owner]
    looped &= _number(look, looped) >= LOOP_PART * look.tokens.lengths[look.owner]
    owners = np.unique(look.owner[looped])
    share = len(owners) / int(late.sum())
    teacher = look.column("teacher_logprobs")
    if teacher is None:
        return unjudged(code, "no coach read these tokens")
    liked = mean(np.exp(teacher), looped)
    kl = look.kl if look.kl is not None else np.zeros(len(teacher))
    here = mean(kl, looped)
    rest = mean(kl, look.counts & late[look.owner] & ~looped)
    evidence = [
        Evidence("answers that go round in circles", share, "share", LOOP_SHARE, "above"),
        Evidence("coach's p of the repeated tokens", liked, "", ENDORSED, "above"),
        Evidence("KL at repeated tokens", here, "nats"),
        Evidence("KL at the other tokens", rest, "nats"),
    ]
    starts = looped & ~np.concatenate([[False], looped[:-1]])
    return Finding(
        code,
        evidence,
        title="The student repeats itself, and the coach endorses it",
        text=f"{percent(share)} of the answers repeat one span {REPEATS} times or more. The coach "
        f"gives the repeated tokens {liked:.2f} on average: once a loop has begun it expects the "
        "loop, so its KL there is low and nothing teaches the student to leave.",
        advice="Lower sampling.max_new_tokens, so that loops earn less of the loss; mix answers "
        "of the coach in (sampling.teacher_share), or start from a student that does not loop "
        "(objective sft on the coach's answers first). objective.weighting.prefix_share trains "
        "the part before the loop alone.",
        rollouts=clearest(
            look, _number(look, looped), starts, "begins to repeat itself; {score:.0f} tokens"
        ),
        filter={"sort": "-tokens"},
    )


def looping(look: Look) -> Bools:
    """(N,): tokens that repeat an earlier span of their rollout, from its second time on."""
    ids, owner = look.ids, look.owner
    found = np.zeros(len(ids), bool)
    for period in range(1, min(LONGEST_PERIOD, len(ids) - 1) + 1):
        same = np.zeros(len(ids) + 2, np.int8)
        same[1 + period : -1] = (ids[period:] == ids[:-period]) & (
            owner[period:] == owner[:-period]
        )
        turns = np.diff(same)
        starts, ends = np.flatnonzero(turns == 1), np.flatnonzero(turns == -1)
        long = ends - starts >= max((REPEATS - 1) * period, LOOP_TOKENS - period)
        for start, end in zip(starts[long], ends[long], strict=True):
            found[start:end] = True
    return found


def length_drift(look: Look) -> Finding:
    """Completion lengths and the share of finished ones, first against last steps."""
    code = "length-drift"
    tokens, finished = look.ends_of("completion_tokens"), look.ends_of("finished")
    few = too_few("steps", tokens[2] if tokens else 0, MIN_STEPS)
    if few or tokens is None or finished is None:
        return unjudged(code, few or "the steps do not tell how many answers finished")
    cut = (1 - finished[0], 1 - finished[1])
    growth = tokens[1] / max(tokens[0], 1e-9)
    shown = [
        Evidence("tokens an answer, first steps", tokens[0], "tokens"),
        Evidence("tokens an answer, last steps", tokens[1], "tokens"),
    ]
    if cut[1] >= CUT_MOST or growth < GROWTH:
        evidence = [Evidence("answers cut off, last steps", cut[1], "share", CUT_MOST, "above")]
        shown.insert(0, Evidence("answers cut off, first steps", cut[0], "share"))
    else:
        evidence = [
            Evidence("growth of the answers", growth, "×", GROWTH, "above"),
            Evidence("answers cut off, last steps", cut[1], "share", CUT_SHARE, "above"),
            Evidence("more of them than at first", cut[1] - cut[0], "share", CUT_MORE, "above"),
        ]
    limit = look.config.get("sampling", {}).get("max_new_tokens")
    return Finding(
        code,
        [*evidence, *shown],
        title="Most answers are cut off"
        if growth < GROWTH
        else "Answers grow until they are cut off",
        text=f"{percent(cut[1])} of the answers reach the limit"
        + (f" of {limit} tokens" if limit else "")
        + f" at the end of the run, {percent(cut[0])} did at its start; their length went from "
        f"{tokens[0]:.0f} to {tokens[1]:.0f} tokens. Cut answers never see an end, and are graded "
        "as they stand.",
        advice="Raise sampling.max_new_tokens if the answers are sound; if they ramble or never "
        "end, compare the stop tokens and look for repetition first.",
        rollouts=_cut(look),
        filter={"finish_reason": "length", "sort": "-tokens"},
    )


def _cut(look: Look) -> list[dict[str, object]]:
    numbers = np.flatnonzero(~look.stopped & look.own & (look.tokens.lengths > 0))
    late = numbers[look.late[numbers]]
    chosen = sorted(late if len(late) else numbers, key=lambda r: -int(look.tokens.lengths[r]))
    return [
        look.link(int(r), int(look.ends[r]), f"cut off after {look.tokens.lengths[r]} tokens")
        for r in chosen[:MAX_LINKS]
    ]


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else float("inf") if a > 0 else float("nan")


def _at(look: Look, places: np.ndarray) -> Bools:
    found = np.zeros(len(look.ids), bool)
    found[places] = True
    return found


def _number(look: Look, where: Bools) -> Floats:
    """(N,): how many of `where` lie in the token's rollout."""
    counts = np.bincount(look.owner[where], minlength=max(1, len(look.tokens.lengths)))
    return counts[look.owner].astype(np.float64)
