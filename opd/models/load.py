"""Models: finding, refusing, loading, and the pair of student and teacher.

Only safetensors weights and transformers' own code are ever loaded: no pickle, no
`trust_remote_code`.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM

from opd.config.gguf.header import is_gguf
from opd.config.layer_kinds import context
from opd.config.model_files.adapters import is_adapter
from opd.config.model_files.quantized import method_of
from opd.config.model_files.weights import read_object
from opd.errors import ErrorKind, UserError
from opd.models import attention
from opd.models.architecture import from_config
from opd.models.folders.gguf import load_gguf_model
from opd.models.folders.quantized import quantization, quiet_loading, settle
from opd.models.folders.resolve import base_folder, folder_of_tokenizer, name_of, resolve, silent
from opd.models.folders.weights import Comparison, check, check_stored, quiet, refusing, untie
from opd.models.routes import find_route, pairs_per_token
from opd.models.stop_ids import declared_stops, stop_ids, stops_in_files
from opd.models.tokenizers import load_tokenizer, shared_vocabulary

PROCESSOR_TOKENS = 2048


@dataclass(frozen=True)
class Pair:
    """Student and teacher over their shared ids, and the student's ways to stop."""

    student: Any
    teacher: Any  # None where the teacher is no model of its own
    tokenizer: Any
    vocab: int  # ids 0 … vocab − 1 are shared and mean the same
    eos_ids: tuple[int, ...]  # all end a completion; the first, an assistant's message
    pad_id: int
    folders: dict[str, str]
    device: torch.device
    dtype: torch.dtype = torch.float32  # the student computes in it
    weights: torch.dtype = torch.float32  # of what is trained; may be wider
    pairs_per_token: float = 0.0  # of the student: see `opd.models.batches.packs`
    unknown: frozenset[int] = frozenset()  # ids of the student's that a teacher never learnt
    sampling_copy: Callable[[], Any | None] | None = None  # see `opd.sampling.sampling_copy`

    @property
    def end_id(self) -> int:
        """Ends an assistant's message. Raises UserError where nothing ends one."""
        if not self.eos_ids:
            raise UserError(
                "names no end-of-sequence token, so no answer could ever end; set eos_token_id in "
                "its generation_config.json, or sampling.stop_ids",
                where="student.model",
                kind=ErrorKind.BAD_DATA,
            )
        return self.eos_ids[0]

    def at_once(self, limit: int) -> int:
        """Tokens of one pass: on a processor, more than some only leave its caches and pad."""
        return min(limit, PROCESSOR_TOKENS) if self.device.type == "cpu" else limit

    def computing(self) -> AbstractContextManager[Any]:
        """Inside, the student computes in its dtype."""
        if self.weights == self.dtype:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def casting_once(self) -> AbstractContextManager[Any]:
        """Inside, a trained weight is cast once for all `computing` contexts together.

        torch forgets casts when the outermost autocast context ends; this one computes as outside.
        Whatever changes a weight inside, or reads it without a gradient, clears what is kept.
        """
        if self.weights == self.dtype:
            return nullcontext()
        return torch.autocast(self.device.type, enabled=False)


@dataclass(frozen=True)
class TeacherModel:
    """A frozen model that judges the student: its folder, the ids that both share, its stops."""

    model: Any
    folder: Path
    vocab: int
    stop_ids: tuple[int, ...]
    unknown: frozenset[int] = frozenset()  # ids that only the student's tokenizer has a text for
    rows: int = 0  # ids of the model's own


def load_model(
    folder: Path,
    *,
    where: str,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    quantize: str = "none",
    computes: torch.dtype = torch.bfloat16,
    say: Callable[[str], None] = silent,
) -> Any:
    """A causal LM in evaluation mode, dropout off, from safetensors only.

    A folder with only an adapter is its base model with the adapter merged in. Quantized weights
    are made on the device where they stay, and compute in `computes`.
    """
    attention.install()
    if is_gguf(folder):
        quiet()
        model = load_gguf_model(folder, where=where, dtype=dtype, quantize=quantize)
        return model if device is None else model.to(device)
    if is_adapter(folder):
        model = _merged(folder, where=where, dtype=dtype, quantize=quantize, say=say)
        return model if device is None else model.to(device)
    stored = method_of(read_object(folder / "config.json", where=where))
    if stored is not None and quantize != "none":
        raise UserError(
            f"{folder} is quantized already ({stored}): take quantize none",
            where=f"{where.removesuffix('.model')}.quantize",
        )
    if stored is not None and device is not None and device.type == "mps":
        raise UserError(
            f"{folder} is stored quantized ({stored}), which is not supported on mps: take whole "
            "weights, or device cpu",
            where=where,
        )
    extra: dict[str, Any] = {}
    if quantize != "none":
        extra["quantization_config"] = quantization(quantize, where=where, computes=computes)
    in_place = stored is not None or quantize != "none"
    if in_place:
        extra["device_map"] = {"": device or torch.device("cpu")}
    quiet()
    check_stored(folder, where=where)
    with quiet_loading(stored):
        model, info = _pretrained(folder, where=where, dtype=dtype, **extra)
    unused = check(model, Comparison.of(info), folder, where=where)
    if unused:
        say(f"{folder}: {unused}")
    if untie(model):
        say(
            f"{folder}: its head is stored and differs from its embedding; it counts, although "
            "config.json ties them"
        )
    if in_place:
        settle(model)
    elif device is not None:
        model.to(device)
    return model.eval()


def _merged(
    folder: Path, *, where: str, dtype: torch.dtype, quantize: str, say: Callable[[str], None]
) -> Any:
    """The base model of an adapter's folder with the adapter merged in."""
    from opd.models.folders import adapters  # noqa: PLC0415 - peft takes seconds to import

    if quantize != "none":
        raise UserError(
            f"{folder} is an adapter, which is merged into whole weights: save it merged "
            "(opd save --merge), or take quantize none",
            where=f"{where.removesuffix('.model')}.quantize",
        )
    base = base_folder(folder, where=where, say=say)
    model = load_model(base, where=where, dtype=dtype, say=say)
    return adapters.merged(model, folder, where=where)


def _pretrained(
    folder: Path, *, where: str, dtype: torch.dtype, **extra: Any
) -> tuple[Any, dict[str, Any]]:
    """What transformers makes of the folder, and what it tells about keys and shapes."""
    with refusing(folder, where=where):
        return cast(
            tuple[Any, dict[str, Any]],
            AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **extra,
            ),
        )


def load_pair(
    student: str, teacher: str, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> Pair:
    """Loads both models and checks that they can be compared token by token."""
    pair = load_student(student, device=device, dtype=dtype)
    return with_teacher(pair, load_teacher(teacher, pair, where="teacher.model", dtype=dtype))


def load_student(
    reference: str,
    *,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    weights: Path | None = None,
    quantize: str = "none",
    more_stops: Sequence[int] = (),
    say: Callable[[str], None] = silent,
) -> Pair:
    """The student with its tokenizer, by itself: all its ids count. Its weights are in `dtype`.

    `weights` is a checkpoint of it to load in its place; `more_stops` end completions too.
    """
    folder = resolve(reference, where="student.model", say=say)
    vocabulary = folder_of_tokenizer(folder, where="student.model", say=say)
    tokenizer = load_tokenizer(vocabulary, where="student.model")
    model = load_model(
        weights or folder,
        where="student.model",
        dtype=dtype,
        device=device,
        quantize=quantize,
        computes=dtype,
        say=say,
    )
    model.name_or_path = name_of(reference, folder)
    rows = logit_count(model)
    eos_ids = stop_ids(declared_stops(model), tokenizer, more_stops)
    find_route(model, where="student.model")
    return Pair(
        student=model,
        teacher=None,
        tokenizer=tokenizer,
        vocab=rows,
        eos_ids=eos_ids,
        pad_id=next(i for i in (tokenizer.pad_token_id, *eos_ids, 0) if i is not None and i < rows),
        folders={"student": str(folder)},
        device=device,
        pairs_per_token=pairs_per_token(model),
    )


def load_teacher(
    reference: str,
    pair: Pair,
    *,
    where: str,
    dtype: torch.dtype = torch.float32,
    quantize: str = "none",
    say: Callable[[str], None] = silent,
) -> TeacherModel:
    """A frozen judge of the student. Raises UserError where an id means another text to it."""
    folder = resolve(reference, where=where, say=say)
    vocabulary = folder_of_tokenizer(folder, where=where, say=say)
    tokenizer = load_tokenizer(vocabulary, where=where)
    model = load_model(
        folder, where=where, dtype=dtype, device=pair.device, quantize=quantize, say=say
    )
    model.requires_grad_(False)
    find_route(model, where=where)
    compared = shared_vocabulary(
        pair.tokenizer, tokenizer, logit_count(pair.student), logit_count(model), where=where
    )
    stops = stop_ids(declared_stops(model), tokenizer)
    unknown = frozenset(compared.student_only)
    return TeacherModel(model, folder, compared.shared, stops, unknown, logit_count(model))


def served_teacher(
    reference: str, pair: Pair, *, where: str, say: Callable[[str], None] = silent
) -> TeacherModel:
    """The same for a model that a server is to load: only its tokenizer and its configuration are
    read here. Raises UserError."""
    folder = resolve(reference, where=where, say=say)
    if is_gguf(folder) or is_adapter(folder):
        what = "a GGUF file" if is_gguf(folder) else "an adapter"
        raise UserError(
            f"{folder} is {what}, which engine vllm does not judge by: save it whole (opd save "
            "--merge), or take engine local",
            where=where,
        )
    shape = from_config(read_object(folder / "config.json", where=where))
    if shape is None:
        raise UserError(
            f"{folder} does not say how large its vocabulary is: take engine local", where=where
        )
    tokenizer = load_tokenizer(folder, where=where)
    compared = shared_vocabulary(
        pair.tokenizer, tokenizer, logit_count(pair.student), shape.vocab, where=where
    )
    stops = stop_ids(stops_in_files(folder), tokenizer)
    unknown = frozenset(compared.student_only)
    return TeacherModel(None, folder, compared.shared, stops, unknown, shape.vocab)


def with_teacher(pair: Pair, teacher: TeacherModel) -> Pair:
    """The pair with this teacher, cut to the ids that both have."""
    vocab = min(pair.vocab, teacher.vocab)
    return replace(
        pair,
        teacher=teacher.model,
        vocab=vocab,
        pad_id=pair.pad_id if pair.pad_id < vocab else 0,  # both read it, and neither sees it
        unknown=pair.unknown | teacher.unknown,
        folders=pair.folders | {"teacher": str(teacher.folder)},
    )


def logit_count(model: Any) -> int:
    """How many logits the model's head gives."""
    return int(model.get_output_embeddings().weight.shape[0])


def context_of(model: Any) -> int:
    """How many tokens the model reads at most; very many where it does not say."""
    return context(model.config.get_text_config().to_dict()) or 2**31
