"""Supervised fine-tuning: the likelihood of completions that somebody wrote."""

from opd.loss.divergence_bounds import Interval
from opd.loss.objective import LossInputs, Objective, Settings, TokenLoss
from opd.loss.stored import clipped


def sft(x: LossInputs, settings: Settings) -> TokenLoss:
    """loss = −log p(x)."""
    from opd.loss import divergences

    return TokenLoss(-divergences.at(x.student, x.targets))


OBJECTIVES = (
    Objective(
        name="sft",
        label="Likelihood (SFT)",
        help="Log-likelihood of completions written by the teacher or given in the data.",
        formula="−log p(student) of the sampled token",
        method="−log p(x_t) of completions by the teacher or the data",
        certainty="exact",
        needs="nothing",
        columns=("student_logprobs",),
        loss=sft,
        stored=lambda tokens, settings: clipped(
            Interval.exactly(-tokens.columns["student_logprobs"]), settings
        ),
        trained=lambda settings: "−log p of the completion's tokens",
        author="teacher",
        takes_reward_weight=False,
    ),
)
