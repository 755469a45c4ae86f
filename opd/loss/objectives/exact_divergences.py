"""Divergences over the whole vocabulary: p the student, q the teacher, sums over v exact."""

from opd.loss import divergence_bounds as bounds
from opd.loss.objective import LossInputs, Objective, Parameter, Settings, TokenLoss
from opd.loss.stored import bounded

# The reverse KL is stored where the whole distribution was there; else what both models say of the
# listed tokens bounds the divergence.
JUDGED = ("reverse_kl", "teacher_logprobs")

BETA = Parameter(
    "beta",
    "Interpolation: 0 is the forward KL, 1 the reverse KL, in between the divergence to the "
    "mixture (1 − β) student + β teacher",
    default=0.5,
    limits={"ge": 0, "le": 1},
    label="β",
    step=0.05,
)
SKEW = Parameter(
    "skew",
    "Weight of the student in the mixture that replaces the teacher",
    default=0.1,
    limits={"ge": 0, "lt": 1},
    label="Student’s share",
    step=0.05,
)
ENTROPY_THRESHOLD = Parameter(
    "entropy_threshold",
    "Entropy (nats) above which the teacher counts as unsure",
    default=0.8,
    limits={"ge": 0, "le": 100},
    label="Teacher unsure above",
    unit="nats",
    step=0.1,
)


def reverse_kl(x: LossInputs, settings: Settings) -> TokenLoss:
    """KL(p‖q)."""
    from opd.loss import divergences

    divergence = divergences.reverse_kl(x.student, x.whole_teacher)
    return TokenLoss(divergence, reverse_kl=divergence.detach())


def forward_kl(x: LossInputs, settings: Settings) -> TokenLoss:
    """KL(q‖p)."""
    from opd.loss import divergences

    return TokenLoss(divergences.forward_kl(x.student, x.whole_teacher))


def jsd(x: LossInputs, settings: Settings) -> TokenLoss:
    """JSD(β); by convention β = 0 is the forward and β = 1 the reverse KL.

    Source: Agarwal et al., arXiv 2306.13649; the ends as in TRL.
    """
    from opd.loss import divergences

    if settings.beta == 0:
        return forward_kl(x, settings)
    if settings.beta == 1:
        return reverse_kl(x, settings)
    return TokenLoss(divergences.jsd(x.student, x.whole_teacher, settings.beta))


def skewed_kl(x: LossInputs, settings: Settings) -> TokenLoss:
    """KL(p‖(1 − α) q + α p). Source: Ko et al., DistiLLM, arXiv 2402.03898."""
    from opd.loss import divergences

    return TokenLoss(divergences.skewed_kl(x.student, x.whole_teacher, settings.skew))


def entropy_aware(x: LossInputs, settings: Settings) -> TokenLoss:
    """KL(p‖q) where the teacher's entropy is below the threshold, else KL(q‖p).

    Source: Entropy-Aware On-Policy Distillation, arXiv 2603.07079.
    """
    import torch

    from opd.loss import divergences

    teacher = x.whole_teacher
    unsure = divergences.entropy(teacher) >= settings.entropy_threshold
    reverse = divergences.reverse_kl(x.student, teacher)
    forward = divergences.forward_kl(x.student, teacher)
    return TokenLoss(torch.where(unsure, forward, reverse), reverse_kl=reverse.detach())


def _jsd_in_words(settings: Settings) -> str:
    beta = settings.beta
    if beta in (0, 1):
        name = "reverse KL(student‖teacher)" if beta else "forward KL(teacher‖student)"
        return f"{name}, which is JSD with β = {beta:g} by definition"
    return f"JSD with β = {beta:g}, exact over the vocabulary"


OBJECTIVES = (
    Objective(
        name="reverse_kl",
        label="Reverse KL",
        help="KL(student‖teacher), exact over the whole vocabulary.",
        formula="KL(student‖teacher)",
        method="Σ_v p (log p − log q)",
        certainty="exact",
        needs="vocabulary",
        one_of=JUDGED,
        loss=reverse_kl,
        stored=lambda tokens, settings: bounded(tokens, settings, bounds.reverse_kl),
        trained=lambda s: "reverse KL(student‖teacher), exact over the vocabulary",
    ),
    Objective(
        name="forward_kl",
        label="Forward KL",
        help="KL(teacher‖student), exact over the whole vocabulary.",
        formula="KL(teacher‖student)",
        method="Σ_v q (log q − log p)",
        certainty="a lower bound; with a clip, an interval",
        needs="vocabulary",
        one_of=JUDGED,
        loss=forward_kl,
        stored=lambda tokens, settings: bounded(tokens, settings, bounds.forward_kl),
        trained=lambda s: "forward KL(teacher‖student), exact over the vocabulary",
    ),
    Objective(
        name="jsd",
        label="Jensen–Shannon",
        help="Interpolates between the two KLs by beta, over the whole vocabulary.",
        formula="between the two KLs, by β",
        method="β KL(q‖m) + (1 − β) KL(p‖m), m = (1 − β) p + β q; β = 0 is the forward KL and "
        "β = 1 the reverse KL, by convention and not as a limit, which is 0 at both ends",
        certainty="between two bounds",
        needs="vocabulary",
        one_of=JUDGED,
        loss=jsd,
        stored=lambda tokens, s: bounded(tokens, s, lambda listed: bounds.jsd(listed, s.beta)),
        trained=_jsd_in_words,
        parameters=(BETA,),
    ),
    Objective(
        name="skewed_kl",
        label="Skewed KL",
        help="KL(student‖mixture of student and teacher); always bounded.",
        formula="KL(student‖mixture of both)",
        method="KL(p‖(1 − α) q + α p), α = `skew`",
        certainty="between two bounds",
        needs="vocabulary",
        one_of=JUDGED,
        loss=skewed_kl,
        stored=lambda tokens, s: bounded(
            tokens, s, lambda listed: bounds.skewed_kl(listed, s.skew)
        ),
        trained=lambda s: (
            f"KL(student‖mixture), the mixture with {s.skew:.0%} of the student, "
            "exact over the vocabulary"
        ),
        parameters=(SKEW,),
    ),
    Objective(
        name="entropy_aware",
        label="Entropy-aware KL",
        help="Reverse KL where the teacher is sure, forward KL where it is not.",
        formula="reverse KL where the teacher is sure, else forward KL",
        method="reverse KL where the teacher's entropy is below `entropy_threshold`, else forward "
        "KL",
        certainty="exact where the teacher is sure, else as `forward_kl`",
        needs="vocabulary",
        columns=("teacher_entropy",),
        one_of=JUDGED,
        loss=entropy_aware,
        stored=lambda tokens, s: bounded(
            tokens, s, lambda listed: bounds.entropy_aware(listed, s.entropy_threshold)
        ),
        trained=lambda s: (
            "reverse KL where the teacher's entropy is below "
            f"{s.entropy_threshold:g} nats, else forward KL"
        ),
        parameters=(ENTROPY_THRESHOLD,),
    ),
)
