"""What a run trains, in words: which quantity of whose tokens, and how it is reduced."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opd.config.models import RouteConfig
    from opd.config.run import RunConfig

REDUCTIONS = {
    "token_mean": "mean over the step's tokens that count",
    "sequence_mean": "mean over each completion, then over completions",
    "sum": "sum over the step's tokens",
}


def trained(config: "RunConfig") -> str:
    """One sentence: the loss of a token, what changes its weight, and the reduction."""
    objective = config.objective
    parts = [config.objective_entry.trained(objective)]
    if objective.reward_weight:
        parts.append(f"+ {objective.reward_weight:g} × policy gradient on the group's rewards")
    if objective.reference_kl:
        parts.append(f"+ {objective.reference_kl:g} × k3 to the student's start")
    weighting = objective.weighting
    if weighting.kl_clip is not None:
        parts.append(f"each token limited to {weighting.kl_clip:g} nats")
    if weighting.prefix_share < 1:
        parts.append(f"first {weighting.prefix_share:.0%} of each completion")
    if weighting.skip_special:
        parts.append("without special tokens")
    return "; ".join([*parts, _samples(config), REDUCTIONS[objective.reduction]])


def _samples(config: "RunConfig") -> str:
    share = config.sampling.teacher_share
    if share:
        return f"student's samples, {share:.0%} of prompts the teacher's"
    return {
        "student": "student's own samples",
        "teacher": "teacher's samples",
        "given": "given completions",
    }[config.author]


def teacher_name(teacher: "RouteConfig") -> str:
    """How a list of runs calls the teacher."""
    hint = " with a hint" if teacher.prompt or teacher.system else ""
    names = {
        "model": teacher.model,
        "self": "own start",
        "ema": "moving average",
        "remote": f"{teacher.model} (server)",
        "none": "none",
    }
    return names[teacher.kind] + hint


def size(count: float) -> str:
    """Bytes in GB, MB or kB of a thousand each."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count / 1e3:.1f} kB"
