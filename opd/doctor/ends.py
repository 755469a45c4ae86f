"""The tokens that end answers: whether there is one, and whether both models end alike."""

from collections.abc import Iterator

from opd.doctor.findings import Finding
from opd.doctor.models import LocalModel
from opd.models.stop_ids import template_end


def check_student_end(student: LocalModel) -> Iterator[Finding]:
    """Whether anything ends the student's answers."""
    if not student.stops:
        yield Finding(
            "no-stop",
            "error",
            "The student names no end-of-sequence token",
            "No answer could ever finish; the run is refused.",
            "Set eos_token_id in generation_config.json of student.model, or sampling.stop_ids.",
        )
    end = template_end(student.tokenizer, student.declared)
    if end is not None and end not in student.declared:
        yield Finding(
            "end-not-declared",
            "info",
            f"Only the student's chat template ends messages with {student.name(end)}",
            "Its generation_config.json and tokenizer name "
            f"{', '.join(map(student.name, student.declared)) or 'no end'}. Here completions stop "
            "at both, and given ones end as the template writes. Other programs would go on after "
            f"{student.name(end)}.",
            f"Add {end} to eos_token_id in generation_config.json of student.model if the student "
            "is to chat.",
            {"template": student.name(end), "declared": list(map(student.name, student.declared))},
        )


def check_ends(student: LocalModel, teacher: LocalModel) -> Iterator[Finding]:
    """Whether both end answers alike, or the teacher is shown its own end."""
    ours, theirs = set(student.stops), set(teacher.stops)
    evidence = {
        "student": [student.name(i) for i in student.stops],
        "teacher": [teacher.name(i) for i in teacher.stops],
    }
    if not ours:
        return
    if teacher.end_token is not None:
        yield _shown_end(student, teacher, evidence)
    elif theirs - ours or _ends_only_by_template(student, teacher):
        yield _other_stops(student, teacher, evidence)
    else:
        yield Finding(
            "stops-same",
            "ok",
            "The teacher's stop ids end the student's answers",
            f"Answers end with {', '.join(evidence['student'])}.",
            evidence=evidence,
        )


def _ends_only_by_template(student: LocalModel, teacher: LocalModel) -> bool:
    """Whether the teacher's messages end with a token that only the student's template writes: a
    base model often has the chat template of its family."""
    end = template_end(teacher.tokenizer, teacher.declared)
    return end is not None and end in teacher.declared and end not in student.declared


def _other_stops(
    student: LocalModel, teacher: LocalModel, evidence: dict[str, list[str]]
) -> Finding:
    missing = sorted({*teacher.stops} - {*student.stops}) or list(teacher.stops[:1])
    names = ", ".join(student.name(i) for i in missing)
    apart = {*student.declared}.isdisjoint(teacher.stops) or _ends_only_by_template(
        student, teacher
    )
    end = teacher.tokenizer.convert_ids_to_tokens(teacher.stops[0])
    return Finding(
        "stops-differ",
        "warning" if apart else "info",
        "The teacher ends its answers with another token",
        f"The teacher also ends with {names}, which the student does not end its answers with"
        + (
            f" ({', '.join(student.name(i) for i in student.declared)}). Where the student ends, "
            "the teacher then disagrees: the student learns not to stop, and its answers grow to "
            "the limit."
            if apart
            else "; they share another one."
        ),
        f"Set {teacher.field}.end_token: {end}, which the teacher then reads in place of the "
        "student's stop token, or use a student and a teacher of the same kind (both base, or both "
        "tuned for chats). An id in sampling.stop_ids only helps a student that writes it already "
        "or is trained on completions with it; sampled tokens and the reverse KL do not raise a "
        "probability near 0.",
        evidence,
    )


def _shown_end(student: LocalModel, teacher: LocalModel, evidence: dict[str, list[str]]) -> Finding:
    text = teacher.end_token or ""
    end = teacher.tokenizer.get_vocab().get(text)
    field = f"{teacher.field}.end_token"
    if end is None or student.tokenizer.get_vocab().get(text) != end:
        return Finding(
            "end-token-unknown",
            "error",
            f"{field} is not a token of both models",
            f"{text!r} is not one token with the same id in both vocabularies; the run is refused.",
            f"Set {field} to the token that ends the teacher's messages, such as "
            f"{teacher.tokenizer.convert_ids_to_tokens(teacher.stops[0])!r}.",
            evidence,
        )
    others = [i for i in student.stops if i != end]
    if end in student.declared or not others:
        return Finding(
            "end-token-unused",
            "info",
            f"{field} changes nothing",
            f"The student ends its answers with {student.name(end)} itself.",
            f"Leave {field} empty.",
            evidence,
        )
    ends = end in teacher.stops
    return Finding(
        "end-token",
        "ok" if ends else "warning",
        f"The teacher reads {teacher.name(end)} where the student ends",
        f"In place of {', '.join(map(student.name, others))}; their probabilities change places in "
        "what the teacher says. Recorded ids are the student's."
        + ("" if ends else f" But the teacher's own files end answers with {evidence['teacher']}."),
        ""
        if ends
        else f"Set {field} to {teacher.tokenizer.convert_ids_to_tokens(teacher.stops[0])!r}.",
        evidence,
    )
