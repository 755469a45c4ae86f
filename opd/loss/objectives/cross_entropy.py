"""−Σ_v p log q: in the loss lab only, to see the reverse KL beside the student's entropy."""

from opd.loss.divergence_bounds import Interval
from opd.loss.objective import Objective
from opd.loss.stored import clipped

OBJECTIVES = (
    Objective(
        name="cross_entropy",
        label="Cross-entropy",
        help="Student's entropy plus reverse KL; cannot be trained.",
        formula="−Σ p(student) log p(teacher)",
        method="",
        certainty="exact",
        needs="vocabulary",
        columns=("reverse_kl", "student_entropy"),
        stored=lambda tokens, settings: clipped(
            Interval.exactly(tokens.wide("student_entropy") + tokens.wide("reverse_kl")), settings
        ),
    ),
)
