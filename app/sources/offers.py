"""Models and data to choose from that lie in no folder of the user's: what is bundled, runs with
their checkpoints, and the hub's cache."""

import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from app.sources.folders import Look
from opd.config.folders import BUNDLED_DATA, BUNDLED_MODELS, local_folder
from opd.config.gguf.smollm import SMOLLM2
from opd.errors import UserError
from storage.read.runs import read_saved_runs

HUB_FOLDERS = {"model": "models--", "data": "datasets--"}


def bundled(look: Look) -> dict[str, Any]:
    """The bundled models, or the names of the bundled data."""
    names = BUNDLED_MODELS if look.kind == "model" else BUNDLED_DATA
    return _page(names, look, _bundled)


def runs(engine: Engine, look: Look) -> dict[str, Any]:
    """Runs that have a checkpoint, newest first: `value` is the newest one's, `steps` are all."""
    saved = read_saved_runs(engine, search=look.search, limit=look.limit, offset=look.offset)
    return {**saved, "items": [{**item, "value": item["id"]} for item in saved["items"]]}


def cached(look: Look) -> dict[str, Any]:
    """What the hub's cache holds whole enough to be named, by hub id."""
    return _page(_repositories(look), look, _cached)


def _page(names: Iterable[str], look: Look, describe: Any) -> dict[str, Any]:
    matching = [name for name in names if look.finds(name)]
    return {"items": [describe(name, look) for name in matching[look.page]], "total": len(matching)}


def _bundled(name: str, look: Look) -> dict[str, Any]:
    if look.kind == "data":
        return {"name": name, "value": name, "model": None}
    try:
        folder = local_folder(name, where="")
    except UserError as error:
        problem = {"form": "model", "problem": error.message} if name == SMOLLM2 else None
        return {"name": name, "value": None, "model": problem}
    return {"name": name, "value": name, "model": _summary(folder)}


def _cached(name: str, look: Look) -> dict[str, Any]:
    from opd.models.architecture import folder_at_hand  # noqa: PLC0415 - imports the hub's library

    if look.kind == "data":
        return {"name": name, "value": name, "model": None}
    try:
        model = _summary(folder_at_hand(name, where=""))
    except UserError as error:
        model = {"form": "model", "problem": error.message}
    usable = model is not None and not model["problem"]
    return {"name": name, "value": name if usable else None, "model": model}


def _summary(path: Path | None) -> dict[str, Any] | None:
    from opd.models.folders.summary import summary_of  # noqa: PLC0415 - imports the hub's library

    summary = summary_of(path) if path is not None else None
    return None if summary is None else asdict(summary)


def _repositories(look: Look) -> list[str]:
    """Hub ids of the cache's repositories that have a snapshot of their main branch."""
    from huggingface_hub.constants import HF_HUB_CACHE  # noqa: PLC0415 - the environment's

    start = HUB_FOLDERS[look.kind]
    try:
        with os.scandir(HF_HUB_CACHE) as entries:
            folders = [e.name for e in entries if e.name.startswith(start) and e.name.isprintable()]
    except OSError:
        return []
    there = [f for f in folders if (Path(HF_HUB_CACHE) / f / "refs" / "main").is_file()]
    return sorted(f.removeprefix(start).replace("--", "/") for f in there)
