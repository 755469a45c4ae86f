"""What can be checked of the models without their weights and without a network."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from opd.config.folders import RUN_REFERENCE
from opd.config.gguf.header import is_gguf, read_header
from opd.config.layer_kinds import kinds
from opd.config.model_files.adapters import base_reference, is_adapter
from opd.config.model_files.quantized import refuse_cutting
from opd.config.model_files.tokenizers import missing_file, tokenizer_folder
from opd.config.model_files.weights import PICKLE_ENDINGS, read_object, stored_numbers
from opd.config.models import LoraConfig
from opd.config.run import RunConfig
from opd.data.template_dates import render_as_of
from opd.doctor.findings import Finding, refused
from opd.errors import UserError
from opd.models.architecture import Architecture, architecture_of, folder_at_hand
from opd.models.folders.weights import empty_model
from opd.models.parameters import ParameterCounts, count_parameters
from opd.models.stop_ids import as_ids, stop_ids, stops_in_files
from opd.models.tokenizers import VocabularyComparison, compare_vocabularies, load_tokenizer
from opd.models.tried import tried_models, was_tried
from opd.ranks.layers import layers_of

UNLIMITED = 2**31  # tokens of context where a model does not say


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
    counts: ParameterCounts | None = None  # of a student, with the adapter that it gets
    settings: Mapping[str, Any] | None = None  # its config.json, or its base's

    def name(self, token_id: int) -> str:
        text = self.tokenizer.convert_ids_to_tokens(token_id)
        return f"{token_id} ({text})" if text is not None else str(token_id)

    @property
    def context(self) -> int:
        return (self.architecture.context if self.architecture else None) or UNLIMITED

    @property
    def template(self) -> str | None:
        template = getattr(self.tokenizer, "chat_template", None)
        return template if isinstance(template, str) else None


@dataclass(frozen=True)
class LocalModels:
    student: LocalModel | None
    teachers: dict[str, LocalModel]
    findings: list[Finding]

    def context(self, config: RunConfig) -> int:
        """How many tokens every model holds that reads the student's own prompts."""
        plain = [
            teacher
            for field, teacher in self.teachers.items()
            if not config.teachers[field].has_own_prompt
        ]
        readers = [m for m in (self.student, *plain) if m is not None]
        return min((m.context for m in readers), default=UNLIMITED)

    @property
    def vocab(self) -> int | None:
        """How many ids the models share; None where no model's is known."""
        models = [m for m in (self.student, *self.teachers.values()) if m is not None]
        return min((m.architecture.vocab for m in models if m.architecture), default=None)


def look_up(config: RunConfig) -> LocalModels:
    """Every model that is on this disk; findings on those that are not."""
    findings: list[Finding] = []
    cut = config.sharding == "full"
    lora = config.student.lora
    student = _local_model("student", config.student.model, findings, lora, cut=cut)
    if student is not None:
        ends = dict.fromkeys([*student.stops, *config.sampling.stop_ids])
        student = replace(student, stops=tuple(ends))
    teachers = {}
    for field, settings in config.teachers.items():
        if settings.kind == "model":
            teacher = _local_model(field, settings.model, findings, cut=cut)
            if teacher is not None:
                teachers[field] = replace(teacher, end_token=settings.end_token)
    now = datetime.now()  # for all of them: templates that write the time are compared
    for model in (student, *teachers.values()):
        if model is not None:
            render_as_of(model.tokenizer, now)
    return LocalModels(student, teachers, findings)


def _local_model(
    field: str,
    reference: str,
    findings: list[Finding],
    lora: LoraConfig | None = None,
    *,
    cut: bool,
) -> LocalModel | None:
    where = f"{field}.model"
    try:
        chain, absent = _chain_at_hand(reference, where=where)
        if absent is not None:
            findings.append(_absent(absent, where))
        if not chain or (absent is not None and all(missing_file(f) for f in chain)):
            return None
        tokenizer = load_tokenizer(tokenizer_folder(chain, where=where), where=where)
        unused, counts = "", None
        if absent is None:
            unused, counts = _check_weights(chain, where=where, lora=lora, cut=cut)
        if unused:
            findings.append(_unused(reference, where, unused))
        architecture = architecture_of(reference, where=where)
        files = stops_in_files(chain[-1])
        declared = tuple(dict.fromkeys([*files, *as_ids(tokenizer.eos_token_id)]))
        stops = stop_ids(files, tokenizer)
        return LocalModel(
            field,
            reference,
            tokenizer,
            architecture,
            stops,
            declared,
            counts=counts,
            settings=_settings(chain[-1], where=where),
        )
    except UserError as error:
        findings.append(refused("model-refused", f"{reference} cannot be used", error))
        return None


def _chain_at_hand(reference: str, *, where: str) -> tuple[list[Path], str | None]:
    """The model's folder and those of its bases; the first of them that is not on this disk, or
    not with its weights."""
    chain: list[Path] = []
    while True:
        folder = folder_at_hand(reference, where=where)
        if folder is None:
            return chain, reference
        chain.append(folder)
        if not is_adapter(folder):
            return chain, None if is_gguf(folder) or _has_weights(folder) else reference
        reference = base_reference(folder, where=where)


def _has_weights(folder: Path) -> bool:
    """Whether all weights are there. The hub's cache may hold only a model's tokenizer, or a part
    of its files; a run fetches the others, but never pickled ones, which it refuses."""
    pickled = any(path.suffix in PICKLE_ENDINGS for path in folder.iterdir())
    return pickled or stored_numbers(folder) is not None


def _check_weights(
    chain: list[Path], *, where: str, lora: LoraConfig | None, cut: bool
) -> tuple[str, ParameterCounts | None]:
    """What of a whole model's weights is not used, in words, and its parameters, with the adapter
    that a run makes. Raises UserError for faulty ones, and for those that are to be `cut` among
    processes and cannot."""
    if cut:
        refuse_cutting(str(chain[-1]), where=where)
    empty = None if is_gguf(chain[-1]) else empty_model(chain[-1], where=where)
    if empty is None:
        return "", None
    model, unused = empty
    if chain[1:] or lora is not None:
        from opd.models.folders import adapters  # noqa: PLC0415 - peft takes seconds to import

        for adapter in reversed(chain[:-1]):
            model = adapters.load_adapter(model, adapter, where=where).unload()
        if lora is not None:
            model = adapters.with_adapter(model, lora)
    if cut:
        layers_of(model, where=where)
    return unused, count_parameters(model)


def _settings(folder: Path, *, where: str) -> Mapping[str, Any] | None:
    if is_gguf(folder):
        return read_header(folder, where=where).as_config()
    path = folder / "config.json"
    return read_object(path, where=where) if path.is_file() else None


def check_class(model: LocalModel) -> Iterator[Finding]:
    """What the model is by its configuration, and whether its class was tried."""
    if model.settings is None:
        return
    model_type, words = model.settings.get("model_type"), kinds(model.settings)
    tried, version = was_tried(model.settings), tried_models().transformers
    yield Finding(
        "model-class",
        "ok" if tried else "info",
        f"{model.field}: {model_type} ({', '.join(words)}) {'works' if tried else 'was not tried'}",
        f"docs/models.md: a tiny model of this type was right in every respect with transformers "
        f"{version}."
        if tried
        else f"docs/models.md, made with transformers {version}, has no such type that works. How "
        "it is read is found out when it is loaded, and it is refused where no way is right.",
        evidence={
            "field": model.field,
            "model_type": model_type,
            "kinds": words,
            "tried": tried,
        },
    )


def check_parameters(model: LocalModel, *, adapter: bool) -> Iterator[Finding]:
    """How many are trained, and how many a token meets, where that is not all of them."""
    counts = model.counts
    if counts is None or not (adapter or counts.active < counts.total):
        return
    yield Finding(
        "parameters",
        "info",
        str(counts),
        f"{model.field}.model, counted as the run makes it"
        + (", adapter included" if adapter else "")
        + (
            "; a token meets only the experts that it is routed to."
            if counts.active < counts.total
            else "."
        ),
        evidence=asdict(counts),
    )


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
        f"{where} is not in the hub's cache on this machine, or not whole; of its tokenizer, chat "
        "template, stop ids and weights, what is missing is checked once it is downloaded.",
    )


def check_rows(model: LocalModel) -> Iterator[Finding]:
    """Whether the model has a row for each id of its tokenizer."""
    if model.architecture is None:
        return
    rows = model.architecture.vocab
    without = {i: t for t, i in model.tokenizer.get_vocab().items() if i >= rows}
    if without:
        first = min(without)
        yield Finding(
            "ids-without-rows",
            "warning",
            f"{model.field}: {len(without):,} ids of its tokenizer have no row in the model",
            f"The model has {rows:,} rows; the first id beyond them is {first} "
            f"({without[first]!r}). A prompt or completion that contains one is refused.",
            f"Resize the embedding of {model.field}.model (resize_token_embeddings), or use the "
            "tokenizer that it was trained with.",
            {"rows": rows, "ids": len(without), "first": first},
        )


def check_vocabulary(student: LocalModel, teacher: LocalModel) -> Iterator[Finding]:
    """Whether ids mean the same to both."""
    counts = [_ids(m) for m in (student, teacher)]
    shared = min(counts)
    compared = compare_vocabularies(student.tokenizer, teacher.tokenizer, shared)
    different = compared.renamed
    if compared.one_sided and not different:
        yield _one_sided(teacher.field, compared)
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


def _one_sided(field: str, compared: VocabularyComparison) -> Finding:
    sides = (("the student", compared.student_only), (field, compared.teacher_only))
    listed = [
        f"{len(only):,} only {who} has ({', '.join(map(repr, islice(only.values(), 4)))}"
        + (" …)" if len(only) > 4 else ")")
        for who, only in sides
        if only
    ]
    return Finding(
        "tokenizer-one-sided",
        "info",
        "Some tokens are known to one side only",
        f"All other ids stand for the same text; {' and '.join(listed)}. Where the student writes "
        "one that the teacher never learnt, the teacher's probability is that of an untrained row: "
        "in practice, it rules the token out.",
        evidence={
            "student": {str(i): t for i, t in islice(compared.student_only.items(), 8)},
            "teacher": {str(i): t for i, t in islice(compared.teacher_only.items(), 8)},
        },
    )


def _ids(model: LocalModel) -> int:
    return (
        model.architecture.vocab
        if model.architecture is not None
        else len(model.tokenizer.get_vocab())
    )
