"""Reverse KL over one model's k likeliest tokens, all others in one bucket."""

from opd.loss import divergence_bounds as bounds
from opd.loss.objective import LossInputs, Objective, Parameter, Settings, TokenLoss
from opd.loss.stored import bounded

TOP_K = Parameter(
    "top_k",
    "Number of tokens besides the bucket",
    default=32,
    limits={"ge": 1, "le": 4096},
    label="k",
    unit="tokens",
    step=1,
    whole=True,
)
CERTAINTY = (
    "exact up to the stored k; beyond it between the bucketed value and the exact reverse KL"
)


def student_top_k(x: LossInputs, settings: Settings) -> TokenLoss:
    """Over the student's k likeliest ids, chosen without gradient."""
    from opd.loss import divergences

    k = min(settings.top_k, x.student.shape[-1])
    ids = x.student.detach().topk(k, dim=-1).indices
    return TokenLoss(divergences.top_k_reverse_kl(x.student, x.whole_teacher, ids))


def teacher_top_k(x: LossInputs, settings: Settings) -> TokenLoss:
    """Over the teacher's k likeliest ids, from its whole distribution or from a server's list."""
    from opd.loss import divergences

    k = settings.top_k
    if x.teacher is not None:
        ids = x.teacher.topk(min(k, x.teacher.shape[-1]), dim=-1).indices
        return TokenLoss(divergences.top_k_reverse_kl(x.student, x.teacher, ids))
    if x.teacher_ids is None or x.teacher_top is None:
        raise ValueError("this objective needs the teacher's likeliest tokens")
    ids, top = x.teacher_ids[:, :k], x.teacher_top[:, :k]
    return TokenLoss(divergences.bucketed_reverse_kl(x.student, ids, top))


OBJECTIVES = (
    Objective(
        name="student_top_k",
        label="Student’s top k + rest",
        help="Reverse KL over the student's k likeliest tokens and one bucket for the rest.",
        formula="reverse KL over the student’s k likeliest tokens and one bucket",
        method="reverse KL over the student's k likeliest ids and one bucket for all others",
        certainty=CERTAINTY,
        needs="vocabulary",
        columns=("student_topk_other", "teacher_topk_other"),
        loss=student_top_k,
        stored=lambda tokens, s: bounded(
            tokens, s, lambda listed: bounds.top_k(listed, "student", s.top_k)
        ),
        trained=lambda s: f"reverse KL over the student's top {s.top_k} and one bucket",
        parameters=(TOP_K,),
    ),
    Objective(
        name="teacher_top_k",
        label="Teacher’s top k + rest",
        help="Reverse KL over the teacher's k likeliest tokens and one bucket for the rest; works "
        "with a teacher behind a server.",
        formula="reverse KL over the teacher’s k likeliest tokens and one bucket",
        method="the same over the teacher's k likeliest",
        certainty=CERTAINTY,
        needs="top_k",
        columns=("teacher_topk_other",),
        loss=teacher_top_k,
        stored=lambda tokens, s: bounded(
            tokens, s, lambda listed: bounds.top_k(listed, "teacher", s.top_k)
        ),
        trained=lambda s: f"reverse KL over the teacher's top {s.top_k} and one bucket",
        parameters=(TOP_K,),
    ),
)
