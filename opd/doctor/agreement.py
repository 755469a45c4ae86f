"""What a rehearsal says of the two models: stops, first tokens, agreement, and the scoring path."""

from collections.abc import Iterator, Sequence

import numpy as np

from opd.doctor.findings import Finding
from opd.doctor.rehearsal import TOP_K, Rehearsal, Stops, stop_probabilities
from opd.grading.outcome import is_right
from opd.models.load import Pair
from opd.training.evaluation import proportion
from opd.training.rollouts import Completion

# Nats per token. The same weights read the same tokens by the same code: only rounding may differ.
ZERO_KL = 1e-4
# Sampling decodes with a cache, token by token, scoring reads whole sequences: kernels differ.
# In float32 by about 1e-5; in bfloat16, which keeps 8 bits, by some hundredths on average.
GAPS = {"float32": 1e-3, "bfloat16": 0.05}
# Nats at the first token of an answer: a teacher that likes one other opening differs by about 1,
# one that reads an unknown chat format by several.
FIRST_TOKEN = 2.0
# A share of tokens that the teacher all but rules out: p below OFF_SUPPORT, and LESS_LIKELY times
# below the student's. Sampled from 50,000 ids, 5% of a student's tokens are that rare to itself.
OFF_SUPPORT, LESS_LIKELY, OFF_SHARE = 1e-4, 10, 0.2
OVERLAP = 0.25  # of the 8 likeliest tokens; related models share more than half
NO_STOP, A_STOP, SURE_STOP = 1e-3, 0.1, 0.5
CUT_OFF = 0.25  # published runs with cut answers work, but those tokens never see an end
EDGES = (0.02, 0.98)  # beyond, groups of one prompt are nearly all alike


def check_rehearsal(rehearsal: Rehearsal) -> Iterator[Finding]:
    """Findings on the student by itself, then on both models where the teacher read."""
    yield from _zero(rehearsal)
    yield from _gap(rehearsal)
    yield from _cut_off(rehearsal)
    yield from _reward(rehearsal)
    yield from _teacher_score(rehearsal)
    if rehearsal.judged:
        stops = stop_probabilities(rehearsal)
        if stops is not None:
            yield from _stops(rehearsal, stops)
        yield from _unknown(rehearsal)
        yield from _first_token(rehearsal)
        yield from _support(rehearsal)


def _zero(rehearsal: Rehearsal) -> Iterator[Finding]:
    """The student as its own teacher: every log-ratio and every KL must be 0."""
    differences = [
        np.abs(r.student_logprobs - r.teacher_logprobs)  # type: ignore[operator]
        for r in rehearsal.self_scores
    ]
    kl = [np.abs(r.reverse_kl) for r in rehearsal.self_scores if r.reverse_kl is not None]
    most = float(max(np.max(np.concatenate(x)) for x in (differences, kl)))
    evidence = {"largest": most, "limit": ZERO_KL}
    if not most <= ZERO_KL:  # NaN too
        yield Finding(
            "zero-kl",
            "error",
            "The student disagrees with itself",
            f"Read twice, the same tokens get log-probabilities that differ by up to {most:.2g} "
            "nats: the model draws random numbers, or depends on what is beside it in a batch. "
            "What is measured against a teacher would be as wrong.",
            "Look for dropout or other noise in the model's own code, and try student.dtype "
            "float32.",
            evidence,
        )
    else:
        yield Finding(
            "zero-kl",
            "ok",
            "The student agrees with itself",
            f"Scored as its own teacher, it differs by at most {most:.1g} nats.",
            evidence=evidence,
        )


def _gap(rehearsal: Rehearsal) -> Iterator[Finding]:
    gaps = np.concatenate(
        [
            np.abs(w.sample.sampler_logprobs - r.student_logprobs)  # type: ignore[operator]
            for w, r in zip(rehearsal.completions, rehearsal.records, strict=True)
        ]
    )
    dtype = rehearsal.config.student.dtype
    limit, mean, most = GAPS[dtype], float(gaps.mean()), float(gaps.max())
    evidence = {"mean": mean, "largest": most, "limit_of_the_mean": limit}
    bad = not mean <= limit
    yield Finding(
        "sampler-gap",
        "warning" if bad else "ok",
        f"Sampler and trainer differ by {mean:.2g} nats per token",
        f"On average; at most by {most:.2g}. Both give the log-probability of the same token, once "
        "while sampling and once while training; only rounding differs"
        + (f", and in {dtype} that is usually below {limit:g}." if bad else "."),
        "Set student.dtype to float32, or objective.ratio_cap where the objective has it."
        if bad
        else "",
        evidence,
    )


def _cut_off(rehearsal: Rehearsal) -> Iterator[Finding]:
    cut = [w.sample.finish_reason == "length" for w in rehearsal.completions]
    share, limit = float(np.mean(cut)), rehearsal.config.sampling.max_new_tokens
    shortened = rehearsal.limit < limit
    evidence = {"share": share, "of": len(cut), "limit": rehearsal.limit}
    if share > CUT_OFF and not shortened:
        yield Finding(
            "cut-off",
            "warning",
            f"{sum(cut)} of {len(cut)} completions are truncated",
            f"They reach sampling.max_new_tokens, {limit}, before they finish. Tokens after it are "
            "never trained, and a truncated completion is graded as it is.",
            "Raise sampling.max_new_tokens; if completions never finish, compare the stop ids.",
            evidence,
        )
        return
    yield Finding(
        "cut-off",
        "info" if share > CUT_OFF else "ok",
        f"{len(cut) - sum(cut)} of {len(cut)} completions finish (EOS)",
        f"Within {rehearsal.limit} tokens" + (f"; the run allows {limit}." if shortened else "."),
        evidence=evidence,
    )


def _reward(rehearsal: Rehearsal) -> Iterator[Finding]:
    rewards = [w.reward for w in rehearsal.completions if w.reward is not None]
    if not rewards:
        return
    score = float(np.mean(rewards))
    objective = rehearsal.config.objective
    needed = objective.uses_rewards
    extreme = not EDGES[0] <= score <= EDGES[1]
    word = "none" if score < 0.5 else "all"
    yield Finding(
        "reward",
        "warning" if needed and extreme else "info",
        f"{sum(map(is_right, rewards))} of {len(rewards)} answers are right",
        (
            f"With {word} correct, all rewards of a group are the same, and such groups teach "
            "nothing."
            if needed and extreme
            else "Before training, on a few training prompts."
        ),
        "Look at an answer below: if it is correct, fix prompts.grader or prompts.answer_pattern; "
        "otherwise use prompts of another difficulty, or an objective that needs no reward."
        if needed and extreme
        else "",
        {
            "score": score,
            "examples": _examples(rehearsal.completions),
        },
    )


def _examples(completions: Sequence[Completion]) -> list[dict[str, str | None]]:
    return [{"answer": w.prompt.answer, "completion": w.text[-300:]} for w in completions[:2]]


def _teacher_score(rehearsal: Rehearsal) -> Iterator[Finding]:
    """How many of the same prompts the teacher itself gets right."""
    theirs = [float(is_right(w.reward)) for w in rehearsal.by_teacher if w.reward is not None]
    if not theirs:
        return
    ours = [float(is_right(w.reward)) for w in rehearsal.completions if w.reward is not None]
    teacher, student = (proportion("", "", values) for values in (theirs, ours))
    error = float(np.hypot(teacher.standard_error, student.standard_error))
    poor = not any(theirs) or teacher.value < student.value - 2 * error
    counts = f"{sum(theirs):.0f} of {len(theirs)}"
    yield Finding(
        "teacher-score",
        "warning" if poor else "ok",
        f"The teacher itself gets {counts} right",
        f"The student gets {sum(ours):.0f} of {len(ours)} on the same training prompts."
        + (" What a teacher cannot do it cannot teach." if poor else ""),
        "Look at an answer below: if it is correct, fix prompts.grader or prompts.answer_pattern; "
        "otherwise check the teacher's chat template and end, or use a stronger teacher."
        if poor
        else "",
        {
            "teacher": teacher.value,
            "student": student.value,
            "examples": _examples(rehearsal.by_teacher),
        },
    )


def _stops(rehearsal: Rehearsal, stops: Stops) -> Iterator[Finding]:
    """p(stop) by id: at the ends of finished answers, and anywhere in truncated ones."""
    pair, written = rehearsal.loaded.pair, rehearsal.completions

    def name(i: int) -> str:
        return f"{i} ({pair.tokenizer.convert_ids_to_tokens(i)})"

    ends = [s.stop - 1 for s, w in zip(stops.spans, written, strict=True) if _finished(w)]
    evidence = {
        "finished": len(ends),
        "ids": [
            {
                "id": name(stop),
                "student": float(stops.student[ends, k].mean()) if ends else None,
                "teacher": float(stops.teacher[ends, k].mean()) if ends else None,
                "ends_the_student": stop in pair.eos_ids,
            }
            for k, stop in enumerate(stops.ids)
        ],
    }
    reported = False
    for k, stop in enumerate(stops.ids):
        mine = [e for e in ends if _last(rehearsal, stops, e) == stop]
        if not mine or stops.teacher[mine, k].mean() >= NO_STOP:
            continue
        others = stops.teacher[mine].mean(0)
        best = int(others.argmax())
        if others[best] > A_STOP:
            reported = True
            given = float(stops.student[mine, best].mean())
            advice = _end_advice(pair, stops.ids[best], given)
            text = name(stop), name(stops.ids[best])
            yield _disagree(*text, float(others[best]), advice, evidence)
    foreign = [k for k, stop in enumerate(stops.ids) if stop not in pair.eos_ids]
    for k in foreign:
        cut = [
            s
            for s, w in zip(stops.spans, written, strict=True)
            if not _finished(w) and stops.teacher[s, k].max() > SURE_STOP
        ]
        if cut:
            reported = True
            sure = np.concatenate([np.arange(s.start, s.stop) for s in cut])
            sure = sure[stops.teacher[sure, k] > SURE_STOP]
            advice = _end_advice(pair, stops.ids[k], float(stops.student[sure, k].mean()))
            yield _missing(name(stops.ids[k]), len(cut), advice, evidence)
    if not reported:
        yield Finding(
            "stop-agrees",
            "ok" if ends else "info",
            "Both models end answers with the same token" if ends else "No answer finished",
            "p(stop) of each id at the ends of finished answers is listed below."
            if ends
            else "So it is unknown how the models would end one.",
            evidence=evidence,
        )


def _finished(written: object) -> bool:
    return bool(written.sample.finish_reason == "stop")  # type: ignore[attr-defined]


def _last(rehearsal: Rehearsal, stops: Stops, end: int) -> int:
    """The id at a flat position that ends a rollout."""
    number = next(i for i, s in enumerate(stops.spans) if s.stop - 1 == end)
    return int(rehearsal.completions[number].sample.completion_ids[-1])


def _end_advice(pair: Pair, end: int, given: float) -> str:
    """What helps against the teacher's `end`, to which the student gives this probability."""
    text = pair.tokenizer.convert_ids_to_tokens(end)
    mapping = f"Set teacher.end_token: {text}, or use a student and a teacher of the same kind."
    if given >= NO_STOP:
        return f"Add {end} ({text}) to sampling.stop_ids: the student writes it too. {mapping}"
    return (
        f"{mapping} Adding {end} ({text}) to sampling.stop_ids does not help: the student gives it "
        f"{given:.1g}, and neither sampled tokens nor the reverse KL raise that."
    )


def _disagree(
    ours: str, theirs: str, share: float, advice: str, evidence: dict[str, object]
) -> Finding:
    return Finding(
        "stop-disagrees",
        "warning",
        "The models end answers with different tokens",
        f"Where the student ends with {ours}, the teacher gives that token a probability below "
        f"{NO_STOP:g}, and {theirs} {share:.2f}. The student learns not to stop, and its answers "
        "grow to the limit.",
        advice,
        evidence,
    )


def _missing(theirs: str, count: int, advice: str, evidence: dict[str, object]) -> Finding:
    return Finding(
        "stop-missing",
        "warning",
        "The teacher would stop where the student cannot",
        f"In {count} truncated answers, the teacher gave {theirs} a probability above "
        f"{SURE_STOP:g}; that token does not end the student's answers.",
        advice,
        evidence,
    )


def _unknown(rehearsal: Rehearsal) -> Iterator[Finding]:
    """Tokens of the student's own that a teacher has only an untrained row for."""
    pair = rehearsal.loaded.pair
    ids = np.concatenate([w.sample.completion_ids for w in rehearsal.completions])
    written = sorted(pair.unknown.intersection(ids.tolist()))
    if written:
        count = int(np.isin(ids, written).sum())
        names = ", ".join(repr(pair.tokenizer.convert_ids_to_tokens(i)) for i in written)
        yield Finding(
            "unknown-tokens",
            "warning",
            f"{count} of {len(ids)} tokens are unknown to the teacher",
            f"The student writes {names}; the teacher's tokenizer has no such token, and its "
            "probability there is that of a row which it never learnt: the student is taught not "
            "to write it.",
            "Use a teacher of the student's own version, or prompts after which the student does "
            "not write these tokens (for <think>: prompts.thinking false).",
            {"tokens": count, "of": len(ids), "ids": written},
        )


def _first_token(rehearsal: Rehearsal) -> Iterator[Finding]:
    first = [float(r.reverse_kl[0]) for r in rehearsal.records if r.reverse_kl is not None]
    if not first:
        return
    mean, most = float(np.mean(first)), float(np.max(first))
    everywhere = rehearsal.all_of("reverse_kl")
    assert everywhere is not None
    typical = float(everywhere.mean())
    evidence = {"mean": mean, "largest": most, "mean_of_all_tokens": typical}
    unhinted = all(not t.has_own_prompt for t in rehearsal.config.teachers.values())
    far = mean > FIRST_TOKEN and mean > 2 * typical
    yield Finding(
        "first-token",
        ("warning" if unhinted else "info") if far else "ok",
        f"At the first token the models differ by {mean:.2f} nats",
        f"Reverse KL, mean over prompts; at most {most:.2f}, {typical:.2f} over all tokens. "
        + (
            "So much before anything was answered means that one of them expects another prompt "
            "format."
            if far
            else "Both begin an answer in the same way."
            if mean < FIRST_TOKEN
            else "No more than elsewhere."
        ),
        "Compare the chat templates, prompts.chat and prompts.thinking; look at the prompts as "
        "they are rendered."
        if far and unhinted
        else "",
        evidence,
    )


def _support(rehearsal: Rehearsal) -> Iterator[Finding]:
    """How far each model's tokens lie within what the other one expects."""
    teacher = rehearsal.all_of("teacher_logprobs")
    assert teacher is not None
    tokens = np.exp(teacher)
    student = rehearsal.all_of("student_logprobs")
    assert student is not None
    less_likely = teacher < student - np.log(LESS_LIKELY)
    ruled_out = float(((tokens < OFF_SUPPORT) & less_likely).mean())
    evidence = {
        "teacher_on_student_tokens": float(tokens.mean()),
        "ruled_out_share": ruled_out,
        "tokens": len(tokens),
    }
    tops = [(r.student_topk, r.teacher_topk) for r in rehearsal.records]
    overlap = None
    if all(a is not None and b is not None and b.other_logprobs is not None for a, b in tops):
        shared, choice, mass = [], [], []
        for ours, theirs in tops:
            assert ours is not None and theirs is not None and theirs.other_logprobs is not None
            both = ours.ids[:, :, None] == theirs.ids[:, None, :]
            shared.append(both.any(-1).mean(-1))
            choice.append(np.exp(theirs.other_logprobs[:, 0]))
            mass.append(np.exp(theirs.other_logprobs).sum(-1))
        overlap = float(np.concatenate(shared).mean())
        evidence |= {
            "top_k": TOP_K,
            "overlap": overlap,
            "student_on_teacher_choice": float(np.concatenate(choice).mean()),
            "student_on_teacher_top": float(np.concatenate(mass).mean()),
        }
    far = ruled_out > OFF_SHARE or (overlap is not None and overlap < OVERLAP)
    yield Finding(
        "agreement",
        "warning" if far else "ok",
        f"The teacher gives the student's tokens {tokens.mean():.2f} on average",
        f"It almost rules out {100 * ruled_out:.0f}% of them"
        + ("" if overlap is None else f"; the models share {overlap:.0%} of their top {TOP_K}")
        + (
            ". The two are far apart: the signal is large and noisy, and the teacher judges "
            "answers unlike any that it would write."
            if far
            else "."
        ),
        "Start from a student closer to the teacher, or train on the teacher's samples first "
        "(objective sft), or mix some in (sampling.teacher_share)."
        if far
        else "",
        evidence,
    )
