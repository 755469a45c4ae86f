"""Models and tokenizers: finding, refusing, loading, and what student and teacher share.

Only safetensors weights and transformers' own code are ever loaded: no pickle, no
`trust_remote_code`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from opd.folders import check_folder, local_folder
from opd.types import UserError

HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


@dataclass(frozen=True)
class Pair:
    """Student and teacher over their shared ids, and the student's ways to stop."""

    student: Any
    teacher: Any
    tokenizer: Any
    vocab: int  # ids 0 … vocab − 1 are shared and mean the same
    eos_ids: tuple[int, ...]
    pad_id: int
    folders: dict[str, str]
    device: torch.device


def resolve(reference: str, *, where: str) -> Path:
    """The local folder of a model: bundled, given, or downloaded from the hub.

    Raises UserError that says what is missing and what to do.
    """
    folder = local_folder(reference, where=where)
    if folder is None:
        folder = _download(reference, where=where)
        check_folder(folder, where=where)
    return folder


def _download(reference: str, *, where: str) -> Path:
    try:
        return Path(snapshot_download(reference, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"{reference!r} is no local folder and could not be fetched from the hub: {reason}",
            where=where,
            kind="missing model",
        ) from None


def load_tokenizer(folder: Path, *, where: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} has no usable tokenizer: {_short(error)}", where=where, kind="missing model"
        ) from None


def quiet() -> None:
    """No bars while weights load, no advice in the log that does not concern users."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def load_model(folder: Path, *, where: str, dtype: torch.dtype = torch.float32) -> Any:
    """A causal LM in evaluation mode, dropout off, from safetensors only."""
    quiet()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{folder} cannot be loaded as a causal language model: {_short(error)}",
            where=where,
            kind="missing model",
        ) from None
    return model.eval()


def load_pair(
    student: str, teacher: str, *, device: torch.device, dtype: torch.dtype = torch.float32
) -> Pair:
    """Loads both models and checks that they can be compared token by token."""
    folders = {
        "student": resolve(student, where="student.model"),
        "teacher": resolve(teacher, where="teacher.model"),
    }
    tokenizer = load_tokenizer(folders["student"], where="student.model")
    other = load_tokenizer(folders["teacher"], where="teacher.model")
    models = {
        name: load_model(folder, where=f"{name}.model", dtype=dtype).to(device)
        for name, folder in folders.items()
    }
    vocab = shared_vocabulary(
        tokenizer, other, *(logit_count(models[n]) for n in ("student", "teacher"))
    )
    models["teacher"].requires_grad_(False)
    eos_ids = stop_ids(models["student"], tokenizer)
    return Pair(
        student=models["student"],
        teacher=models["teacher"],
        tokenizer=tokenizer,
        vocab=vocab,
        eos_ids=eos_ids,
        pad_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos_ids[0],
        folders={name: str(folder) for name, folder in folders.items()},
        device=device,
    )


def logit_count(model: Any) -> int:
    """How many logits the model's head gives."""
    return int(model.get_output_embeddings().weight.shape[0])


def shared_vocabulary(student: Any, teacher: Any, student_logits: int, teacher_logits: int) -> int:
    """How many leading ids both models can produce. Raises UserError when an id's text differs.

    Families pad their vocabularies differently (151,936 and 152,064): the longer one is cut, and
    the distributions renormalised over what is shared.
    """
    shared = min(student_logits, teacher_logits)
    ours, theirs = (
        {i: t for t, i in tokenizer.get_vocab().items() if i < shared}
        for tokenizer in (student, teacher)
    )
    different = sorted(i for i in ours.keys() | theirs.keys() if ours.get(i) != theirs.get(i))
    if different:
        i = different[0]
        raise UserError(
            f"student and teacher have different tokenizers: {len(different)} of {shared} ids "
            f"differ, first id {i}: {ours.get(i)!r} and {theirs.get(i)!r}; token-level "
            "distillation needs a teacher with the student's tokenizer",
            where="teacher.model",
            kind="tokenizer mismatch",
        )
    return shared


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends the model's answer, from its generation settings and its tokenizer."""
    found: list[int] = []
    for ids in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        found += ids if isinstance(ids, list) else [] if ids is None else [ids]
    if not found:
        raise UserError(
            "names no end-of-sequence token, so no answer could ever end",
            where="student.model",
            kind="bad data",
        )
    return tuple(dict.fromkeys(found))


def fingerprint(tokenizer: Any) -> str:
    """Names a vocabulary: SHA-256 over its ids and strings, 16 hex digits."""
    pairs = sorted((i, t) for t, i in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=True).encode()).hexdigest()[:16]


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the processor where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(
            f"{name} asked for, but this machine has {count} CUDA devices; use auto or cpu",
            where="device",
        )
    return device


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
