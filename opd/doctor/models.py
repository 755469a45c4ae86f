"""What can be checked of the models without their weights and without a network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from opd.config.folders import RUN_REFERENCE
from opd.config.gguf.header import is_gguf
from opd.config.model_files.adapters import base_reference, is_adapter
from opd.config.model_files.tokenizers import missing_file, tokenizer_folder
from opd.config.run import RunConfig
from opd.doctor.findings import Finding, refused
from opd.errors import UserError
from opd.models.architecture import Architecture, architecture_of, folder_at_hand
from opd.models.folders.weights import empty_model
from opd.models.stop_ids import as_ids, stop_ids, stops_in_files, template_end
from opd.models.tokenizers import differing_ids, load_tokenizer


@dataclass(frozen=True)
class LocalModel:
    """A model on this disk: its field, tokenizer, architecture and stop ids."""

    field: str  # student, teacher or teacher.routes.NAME
    reference: str
    tokenizer: Any
    architecture: Architecture | None
    stops: tuple[int, ...]  # the first ends an assistant's message
    declared: tuple[int, ...] = ()  # those that its files name, whatever its template writes
    end_token: str | None = None  # of a teacher: shown to it in place of the student's stops

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
    lora = config.student.lora
    targets = () if lora is None or isinstance(lora.targets, str) else lora.targets
    student = _local_model("student", config.student.model, findings, targets)
    if student is not None:
        ends = dict.fromkeys([*student.stops, *config.sampling.stop_ids])
        student = replace(student, stops=tuple(ends))
    teachers = {}
    for field, settings in config.teachers.items():
        if settings.kind == "model":
            teacher = _local_model(field, settings.model, findings)
            if teacher is not None:
                teachers[field] = replace(teacher, end_token=settings.end_token)
    return LocalModels(student, teachers, findings)


def _local_model(
    field: str, reference: str, findings: list[Finding], targets: Sequence[str] = ()
) -> LocalModel | None:
    where = f"{field}.model"
    try:
        chain, absent = _chain_at_hand(reference, where=where)
        if absent is not None:
            findings.append(_absent(absent, where))
        if not chain or (absent is not None and all(missing_file(f) for f in chain)):
            return None
        tokenizer = load_tokenizer(tokenizer_folder(chain, where=where), where=where)
        unused = "" if absent is not None else _check_weights(chain, where=where, targets=targets)
        if unused:
            findings.append(_unused(reference, where, unused))
        architecture = architecture_of(reference, where=where)
        files = stops_in_files(chain[-1])
        declared = tuple(dict.fromkeys([*files, *as_ids(tokenizer.eos_token_id)]))
        stops = stop_ids(files, tokenizer)
        return LocalModel(field, reference, tokenizer, architecture, stops, declared)
    except UserError as error:
        findings.append(refused("model-refused", f"{reference} cannot be used", error))
        return None


def _chain_at_hand(reference: str, *, where: str) -> tuple[list[Path], str | None]:
    """The model's folder and those of its bases; the first of them that is not on this disk."""
    chain: list[Path] = []
    while True:
        folder = folder_at_hand(reference, where=where)
        if folder is None:
            return chain, reference
        chain.append(folder)
        if not is_adapter(folder):
            return chain, None
        reference = base_reference(folder, where=where)


def _check_weights(chain: list[Path], *, where: str, targets: Sequence[str]) -> str:
    """What of a whole model's weights is not used, in words. Raises UserError for faulty ones."""
    found = None if is_gguf(chain[-1]) else empty_model(chain[-1], where=where)
    if found is None:
        return ""
    model, unused = found
    if chain[1:] or targets:
        from opd.models.folders import adapters  # noqa: PLC0415 - peft takes seconds to import

        for adapter in reversed(chain[:-1]):
            model = adapters.load_adapter(model, adapter, where=where).unload()
        adapters.check_targets(model, targets)
    return unused


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
    if not ours:
        yield Finding(
            "no-stop",
            "error",
            "The student names no end-of-sequence token",
            "No answer could ever finish; the run is refused.",
            "Set eos_token_id in generation_config.json of student.model, or sampling.stop_ids.",
            evidence,
        )
    elif teacher.end_token is not None:
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
