"""What can be checked of the models without their weights and without a network."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from opd.config.folders import RUN_REFERENCE
from opd.config.gguf.header import is_gguf
from opd.config.run import RunConfig
from opd.config.weight_files import ADAPTER
from opd.doctor.findings import Finding, refused
from opd.errors import UserError
from opd.models.architecture import Architecture, architecture_of, folder_at_hand
from opd.models.stop_ids import stop_ids, stops_in_files
from opd.models.tokenizers import differing_ids, load_tokenizer
from opd.models.weights import check_stored


@dataclass(frozen=True)
class LocalModel:
    """A model on this disk: its field, tokenizer, architecture and stop ids."""

    field: str  # student, teacher or teacher.routes.NAME
    reference: str
    tokenizer: Any
    architecture: Architecture | None
    stops: tuple[int, ...]

    def name(self, token_id: int) -> str:
        text = self.tokenizer.convert_ids_to_tokens(token_id)
        return f"{token_id} ({text})" if text is not None else str(token_id)

    @property
    def template(self) -> str | None:
        template = getattr(self.tokenizer, "chat_template", None)
        return template if isinstance(template, str) else None


@dataclass(frozen=True)
class LocalModels:
    student: LocalModel | None
    teachers: dict[str, LocalModel]
    findings: list[Finding]


def look_up(config: RunConfig) -> LocalModels:
    """Every model that is on this disk; findings on those that are not."""
    findings: list[Finding] = []
    student = _local_model("student", config.student.model, findings)
    if student is not None:
        ends = dict.fromkeys([*student.stops, *config.sampling.stop_ids])
        student = replace(student, stops=tuple(ends))
    teachers = {}
    for field, settings in config.teachers.items():
        if settings.kind == "model":
            teacher = _local_model(field, settings.model, findings)
            if teacher is not None:
                teachers[field] = teacher
    return LocalModels(student, teachers, findings)


def _local_model(field: str, reference: str, findings: list[Finding]) -> LocalModel | None:
    where = f"{field}.model"
    try:
        folder = folder_at_hand(reference, where=where)
        if folder is None:
            findings.append(_absent(reference, where))
            return None
        tokenizer = load_tokenizer(folder, where=where)
        compared = not is_gguf(folder) and not (folder / ADAPTER).is_file()
        unused = check_stored(folder, where=where) if compared else ""
        if unused:
            findings.append(_unused(reference, where, unused))
        architecture = architecture_of(reference, where=where)
        stops = stop_ids(stops_in_files(folder), tokenizer)
        return LocalModel(field, reference, tokenizer, architecture, stops)
    except UserError as error:
        findings.append(refused("model-refused", f"{reference} cannot be used", error))
        return None


def _unused(reference: str, where: str, unused: str) -> Finding:
    return Finding(
        "weights-unused",
        "info",
        f"{reference} holds more than its language model",
        f"{where}: {unused}. The run neither needs nor saves them.",
    )


def _absent(reference: str, where: str) -> Finding:
    if RUN_REFERENCE.fullmatch(reference):
        return Finding(
            "model-of-a-run",
            "info",
            f"{reference} is checked when it is loaded",
            f"{where} names another run; its tokenizer and its weights are not compared here.",
        )
    return Finding(
        "not-downloaded",
        "info",
        f"{reference} is not downloaded yet",
        f"{where} is not in the hub's cache on this machine, so its tokenizer, chat template and "
        "stop ids are compared once it is downloaded.",
    )


def check_pair(student: LocalModel, teacher: LocalModel) -> Iterator[Finding]:
    """Whether ids mean the same to both, and whether both end answers alike."""
    yield from _vocabulary(student, teacher)
    yield from _stops(student, teacher)


def _vocabulary(student: LocalModel, teacher: LocalModel) -> Iterator[Finding]:
    counts = [_ids(m) for m in (student, teacher)]
    shared = min(counts)
    different = differing_ids(student.tokenizer, teacher.tokenizer, shared)
    if different:
        examples = [
            {"id": i, "student": ours, "teacher": theirs}
            for i, (ours, theirs) in islice(different.items(), 8)
        ]
        first = examples[0]
        yield Finding(
            "tokenizer-differs",
            "error",
            "Student and teacher have different tokenizers",
            f"{len(different):,} of {shared:,} ids stand for different text, first id "
            f"{first['id']}: {first['student']!r} and {first['teacher']!r}. The teacher would "
            "judge other words than the student wrote; the run is refused.",
            f"Set {teacher.field}.model to a model of the student's family.",
            {"different": len(different), "shared": shared, "examples": examples},
        )
    elif counts[0] != counts[1]:
        yield Finding(
            "vocabulary-sliced",
            "info",
            f"Vocabularies of {counts[0]:,} and {counts[1]:,} ids",
            f"One is padded further. Both distributions are cut to the {shared:,} shared ids and "
            "renormalised; all text uses only those.",
            evidence={"student": counts[0], "teacher": counts[1], "shared": shared},
        )
    else:
        yield Finding(
            "tokenizer-same",
            "ok",
            "Student and teacher share a tokenizer",
            f"All {shared:,} ids stand for the same text in {teacher.field}.",
        )


def _ids(model: LocalModel) -> int:
    return (
        model.architecture.vocab
        if model.architecture is not None
        else len(model.tokenizer.get_vocab())
    )


def _stops(student: LocalModel, teacher: LocalModel) -> Iterator[Finding]:
    ours, theirs = set(student.stops), set(teacher.stops)
    evidence = {
        "student": [student.name(i) for i in student.stops],
        "teacher": [teacher.name(i) for i in teacher.stops],
    }
    missing = sorted(theirs - ours)
    if not ours:
        yield Finding(
            "no-stop",
            "error",
            "The student names no end-of-sequence token",
            "No answer could ever finish; the run is refused.",
            "Set eos_token_id in generation_config.json of student.model.",
            evidence,
        )
    elif missing:
        names = ", ".join(student.name(i) for i in missing)
        apart = not ours & theirs
        yield Finding(
            "stops-differ",
            "warning" if apart else "info",
            "The teacher ends its answers with another token",
            f"The teacher also ends with {names}, which does not end the student's answers"
            + (
                f" ({', '.join(evidence['student'])} does). The student then learns to write a "
                "token that stops nothing, and its answers grow to the limit."
                if apart
                else "; they share another one."
            ),
            "Add it to sampling.stop_ids, or use a student and a teacher of the same kind (both "
            "base, or both tuned for chats).",
            evidence,
        )
    else:
        yield Finding(
            "stops-same",
            "ok",
            "The teacher's stop ids end the student's answers",
            f"Answers end with {', '.join(evidence['student'])}.",
            evidence=evidence,
        )
