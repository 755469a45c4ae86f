"""GRPO: the reward relative to the group, without a teacher."""

from dataclasses import replace

from opd.loss import importance
from opd.loss.objective import LossInputs, Objective, Parameter, Settings, TokenLoss

REFERENCE_KL = Parameter(
    "reference_kl",
    "Weight of the KL to the student's start",
    default=0.0,
    limits={"ge": 0, "le": 1000},
    label="Reference KL",
    lab="",
    elsewhere="only grpo takes it ({name})",
)


def grpo(x: LossInputs, settings: Settings) -> TokenLoss:
    """loss = −ratio · A, A being the completion's reward relative to its group, + β k3.

    The KL to the student's start is estimated by k3 at the sampled token and back-propagated, as
    GRPO does, though what that trains is the forward KL. Source: Shao et al., arXiv 2402.03300.
    """
    from opd.loss import divergences

    if x.reward_advantage is None:
        raise ValueError("this objective needs rewards")
    result = importance.weighted(x, x.reward_advantage, settings.clip, settings.ratio_cap)
    if not settings.reference_kl:
        return result
    if x.reference_at is None:
        raise ValueError("this objective needs the student's start")
    ratio = divergences.log_ratio(divergences.at(x.student, x.targets), x.reference_at)
    return replace(result, loss=result.loss + settings.reference_kl * divergences.k3(ratio))


OBJECTIVES = (
    Objective(
        name="grpo",
        label="Reward (GRPO)",
        help="Reward relative to the group; no teacher is used.",
        formula="importance ratio × reward relative to the group",
        method="−ratio · A, A the reward relative to its group; optional cap and clip; + β k3 to "
        "the student's start",
        certainty="exact where it was trained",
        needs="nothing",
        columns=("advantages", *importance.COLUMNS),
        loss=grpo,
        stored=lambda tokens, settings: importance.stored(
            tokens, tokens.wide("advantages"), settings
        ),
        trained=lambda s: (
            "policy gradient on rewards relative to the group" + importance.limits_in_words(s)
        ),
        parameters=(importance.RATIO_CLIP, importance.RATIO_CAP, REFERENCE_KL),
        importance_ratio=True,
        rewards=True,
        takes_reward_weight=False,
    ),
)
