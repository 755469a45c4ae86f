"""Adapter folders: what their configuration says, and the base model that it names. Free of torch.

An adapter is often made on another machine: its base may be a path that is not there.
"""

import os
import re
from pathlib import Path
from typing import Any

from opd.config.model_files.weights import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    PICKLE_ENDINGS,
    checked_header,
    missing_model,
    read_object,
)
from opd.errors import ErrorKind, UserError
from opd.files import expanded

HUB_CACHE = re.compile(r"models--(?P<owner>[^/\\]+?)--(?P<name>[^/\\]+)[/\\]snapshots[/\\]")
LOCAL_PATH = re.compile(r"[./~\\]|[A-Za-z]:[\\/]")
TASKS = {
    "SEQ_CLS": "a classifier or reward model",
    "TOKEN_CLS": "a token classifier",
    "QUESTION_ANS": "an extractive question-answering model",
    "SEQ_2_SEQ_LM": "an encoder–decoder model",
    "FEATURE_EXTRACTION": "an embedding model",
}
PROMPT_KINDS = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"),
    *("ADAPTION_PROMPT", "XLORA", "POLY"),
)


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER).is_file()


def base_reference(folder: Path, *, where: str) -> str:
    """The model that an adapter was made for: a hub id, or the path of one that is there.

    Raises UserError for a path of another machine, saying what to write in its place.
    """
    path = folder / ADAPTER
    base = read_object(path, where=where).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise missing_model(f"{path} names no base model (base_model_name_or_path)", where)
    local = base_path(folder, base)
    if local is not None:
        return str(local)
    cached = HUB_CACHE.search(base)
    if cached is None and not LOCAL_PATH.match(base) and base.count("/") <= 1 and "\\" not in base:
        return base
    instead = f"{cached['owner']}/{cached['name']}" if cached else "that model's folder or hub id"
    raise missing_model(
        f"{path} names a base model that is not on this machine ({base}); set "
        f"base_model_name_or_path in it to {instead}",
        where,
    )


def base_path(folder: Path, base: str) -> Path | None:
    """Where on this disk the base model of an adapter lies; None where it does not.

    A relative path is taken from the adapter's folder, else from the working directory.
    """
    written = expanded(base)
    paths = (folder.absolute() / written, written)
    return next((p for p in paths if os.path.exists(p)), None)


def local_chain(folder: Path, *, where: str) -> list[Path]:
    """The folder, and the folders of its base models as far as they are given as paths."""
    chain = [folder]
    while is_adapter(chain[-1]):
        base = Path(base_reference(chain[-1], where=where))
        if not base.exists():
            break
        if any(base.resolve() == seen.resolve() for seen in chain):
            raise missing_model(f"{chain[-1]} names itself as its base model", where)
        chain.append(base)
    return chain


def check_adapter(folder: Path, *, where: str) -> None:
    """Refuses an adapter that is not one of a causal language model, or is not whole."""
    config = read_object(folder / ADAPTER, where=where)
    refusal = _refusal(config)
    if refusal is not None:
        raise UserError(f"{folder} {refusal}", where=where, kind=ErrorKind.REFUSED_MODEL)
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        pickled = any((folder / f"adapter_model{ending}").is_file() for ending in PICKLE_ENDINGS)
        only = " (only pickled weights)" if pickled else ""
        raise missing_model(
            f"{folder} has no {ADAPTER_WEIGHTS}{only}; save the adapter with save_pretrained", where
        )
    checked_header(weights, where=where)


def _refusal(config: dict[str, Any]) -> str | None:
    if config.get("megatron_config") is not None:
        return f"names a library to import (megatron_config in {ADAPTER}), which is refused"
    if config.get("auto_mapping") is not None and config.get("task_type") is None:
        return None  # made of a bare model; its weights are compared with the base's
    task = config.get("task_type")
    if task in TASKS:
        return f"is an adapter of {TASKS[task]} (task_type {task}); give one of a causal model"
    kind = config.get("peft_type")
    if kind in PROMPT_KINDS:
        return f"is of kind {kind}, which cannot be merged into a model; give a low-rank adapter"
    return None
