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
    parts = [_quantity(config)]
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


def _quantity(config: "RunConfig") -> str:
    objective = config.objective
    clip = "" if objective.clip is None else f", ratio clipped to 1 ± {objective.clip:g}"
    gamma = f", discount {objective.gamma:g}" if objective.gamma else ""
    return {
        "reverse_kl": "reverse KL(student‖teacher), exact over the vocabulary",
        "forward_kl": "forward KL(teacher‖student), exact over the vocabulary",
        "jsd": _jsd(objective.beta),
        "skewed_kl": "KL(student‖mixture), the mixture with "
        f"{objective.skew:.0%} of the student, exact over the vocabulary",
        "entropy_aware": "reverse KL where the teacher's entropy is below "
        f"{objective.entropy_threshold:g} nats, else forward KL",
        "student_top_k": f"reverse KL over the student's top {objective.top_k} and one bucket",
        "teacher_top_k": f"reverse KL over the teacher's top {objective.top_k} and one bucket",
        "policy_gradient": "policy gradient with advantage "
        f"−{objective.coefficient:g} × (log p sampled − log q){gamma}{clip}",
        "sft": "−log p of the completion's tokens",
        "grpo": f"policy gradient on rewards relative to the group{clip}",
    }[objective.name]


def _jsd(beta: float) -> str:
    if beta in (0, 1):
        name = "reverse KL(student‖teacher)" if beta else "forward KL(teacher‖student)"
        return f"{name}, as JSD with β = {beta:g} is defined"
    return f"JSD with β = {beta:g}, exact over the vocabulary"


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
