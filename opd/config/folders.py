"""Local models and data: what the disk says about a run's inputs. Free of torch.

Asked before a run is made, so that a missing folder stands beside its field and leaves no failed
run behind, and again when the models are loaded.
"""

import os
import re
from importlib import resources
from pathlib import Path

from opd.config.gguf.header import check_file, is_gguf
from opd.config.gguf.smollm import SMOLLM2, smollm2_file
from opd.config.model_files.adapters import check_adapter, local_chain
from opd.config.model_files.kind import check_kind
from opd.config.model_files.quantized import check_library
from opd.config.model_files.tokenizers import check_tokenizer
from opd.config.model_files.weights import ADAPTER, read_headers, read_object, refuse_pointer
from opd.errors import ErrorKind, UserError
from opd.files import expanded

BUNDLED = tuple(f"bundled/{name}" for name in ("student", "teacher", "small", "slips", "assistant"))
BUNDLED_MODELS = (*BUNDLED, SMOLLM2)
LOCAL_STARTS = (".", "/", "~")
RUN_REFERENCE = re.compile(r"(run-[a-z0-9-]{1,80})(?:@(\d{1,9}))?")
BUNDLED_DATA = (
    "bundled",
    *(f"bundled/{name}" for name in ("word-problems", "format", "tools", "known")),
    *(f"bundled/{name}" for name in ("general", "general-1", "general-2")),
    *(f"bundled/{name}" for name in ("facts-1", "facts-2", "facts-1-mix", "facts-2-mix")),
    *(f"bundled/{name}" for name in ("handbook", "everyday", "everyday-open")),
)
DATA_ENDINGS = (
    *(".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".feather"),
    *(".gz", ".bz2", ".xz", ".zst", ".zip"),
)


def local_folder(reference: str, *, where: str) -> Path | None:
    """The checked folder or GGUF file of a bundled or local model; None for a hub id and another
    run.

    Raises UserError for a folder that is not there or holds no usable model.
    """
    if reference in BUNDLED:
        return Path(str(resources.files("opd") / reference))
    if reference == SMOLLM2:
        return smollm2_file(where=where)
    folder = expanded(reference)
    if RUN_REFERENCE.fullmatch(reference) and not folder.exists():
        return None
    if folder.is_dir():
        check_folder(folder, where=where)
        return folder.resolve()
    if is_gguf(folder) and folder.is_file():
        check_file(folder, where=where)
        return folder.resolve()
    looks_local = reference.startswith(LOCAL_STARTS) or reference.count("/") != 1 or is_gguf(folder)
    if looks_local or folder.exists():
        raise UserError(
            f"no such model folder: {reference}; give a folder with config.json and safetensors "
            f"weights, a GGUF file, a hub id, or one of {', '.join(BUNDLED_MODELS)}",
            where=where,
            kind=ErrorKind.MISSING_MODEL,
        )
    return None


def check_folder(folder: Path, *, where: str) -> None:
    """Refuses a folder without a usable model or without a tokenizer.

    An adapter folder is valid, too: it names its base model, whose tokenizer may be its own.
    """
    check_model(folder, where=where)
    check_tokenizer(folder, where=where)


def check_model(folder: Path, *, where: str) -> None:
    """Refuses a folder that is not a causal language model, brings its own code, or has weights
    that are missing, cut off or pickled.
    """
    config, adapter = folder / "config.json", folder / ADAPTER
    if not config.is_file() and not adapter.is_file():
        raise UserError(
            f"{folder} {_without_config(folder)}", where=where, kind=ErrorKind.MISSING_MODEL
        )
    for path in (config, folder / "tokenizer_config.json", folder / "generation_config.json"):
        if path.is_file() and "auto_map" in read_object(path, where=where):
            raise UserError(
                f"{path} brings its own code (auto_map), which is never run; use a model that "
                "transformers supports",
                where=where,
                kind=ErrorKind.REFUSED_MODEL,
            )
    for name in ("tokenizer.json", "tokenizer.model"):
        refuse_pointer(folder / name, where=where)
    if adapter.is_file():
        check_adapter(folder, where=where)
        for base in local_chain(folder, where=where)[1:2]:
            (check_file if is_gguf(base) else check_model)(base, where=where)
    else:
        settings = read_object(config, where=where)
        check_kind(folder, settings, where=where)
        check_library(folder, settings, where=where)
        read_headers(folder, where=where)


def _without_config(folder: Path) -> str:
    if (folder / "model_index.json").is_file():
        return "is a diffusion pipeline (model_index.json); give a causal language model"
    files = sorted(p.name for p in folder.iterdir() if is_gguf(p))
    advice = f"; to load a GGUF file of it, name the file: {folder / files[0]}" if files else ""
    return f"has no config.json and no {ADAPTER}{advice}"


def is_local(reference: str) -> bool:
    """Whether a data source is meant as a path on this disk; if not, it is a hub id."""
    return named_as_file(reference) or os.path.exists(reference)


def named_as_file(reference: str) -> bool:
    """Whether a data source can only be a path, whether or not something is there."""
    return (
        reference.startswith(LOCAL_STARTS)
        or reference.endswith(DATA_ENDINGS)
        or reference.count("/") > 1
    )


def readable_data(reference: str, *, where: str) -> None:
    """Raises UserError for a local file or folder that cannot be read; a hub id passes."""
    if reference in BUNDLED_DATA or not is_local(reference):
        return
    path = expanded(reference)
    try:
        if path.is_dir():
            next(path.iterdir(), None)
            return
        with path.open("rb"):
            return
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(
            f"{reference} cannot be read: {reason}", where=where, kind=ErrorKind.BAD_DATA
        ) from None
