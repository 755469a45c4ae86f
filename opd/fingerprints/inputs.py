"""The fingerprints of what a run depends on, so that a later attempt sees what has changed.

By field of the configuration, each with its parts: the weights, settings, tokenizer and chat
template of a model folder; the content of data; the revision of what comes from the hub; what a
server serves under a name. Free of torch.

Files are digested whole up to a limit, which holds most data; of larger ones, blocks at even
distances over all of them, with their sizes: every large tensor of a model has some of them.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from opd.config.folders import BUNDLED_DATA
from opd.config.model_files.adapters import base_reference, is_adapter, local_chain
from opd.config.model_files.tokenizers import files_of
from opd.config.model_files.weights import ADAPTER, ADAPTER_WEIGHTS
from opd.config.models import RouteConfig
from opd.config.run import RunConfig
from opd.errors import UserError
from opd.files import expanded
from opd.fingerprints.differences import Fingerprint
from opd.fingerprints.digests import MEGABYTE, digest_of

DATA_LIMIT = 512 * MEGABYTE
CHECKPOINT_STATE = ("optimizer.safetensors", "average.safetensors")
TOKENIZER_SETTINGS = "tokenizer_config.json"


def fingerprints(config: RunConfig, *, online: bool) -> dict[str, Fingerprint]:
    """Of everything the configuration names, whose runs are already folders.

    What cannot be read is left out: loading it will say why. `online`: ask the hub for revisions
    and servers for what they serve; else only what the hub's cache knows is told.
    """
    by_source: dict[str, Fingerprint] = {}
    by_field = dict(_sources(config, online))
    for source in by_field.values():
        if source.name not in by_source:
            try:
                by_source[source.name] = source.read()
            except OSError:
                by_source[source.name] = {}
    made = {field: by_source[source.name] for field, source in by_field.items()}
    return {field: fingerprint for field, fingerprint in made.items() if fingerprint}


@dataclass(frozen=True)
class _InputSource:
    """Where something comes from; several fields may name the same."""

    name: str
    read: Callable[[], Fingerprint]


def _sources(config: RunConfig, online: bool) -> Iterator[tuple[str, _InputSource]]:
    def model(reference: str) -> _InputSource:
        return _InputSource(f"model {reference}", partial(_model, reference, online))

    def data(reference: str) -> _InputSource:
        return _InputSource(f"data {reference}", partial(_data, reference, online))

    yield "student.model", model(config.student.model)
    for field, teacher in config.teachers.items():
        if teacher.kind == "model":
            yield f"{field}.model", model(teacher.model)
        elif teacher.kind == "remote" and online:
            yield f"{field}.model", _InputSource(field, partial(_served, teacher))
    yield "prompts.source", data(config.prompts.source)
    if config.prompts.eval_source is not None:
        yield "prompts.eval_source", data(config.prompts.eval_source)
    for name, suite in config.evaluation.suites.items():
        yield f"evaluation.suites.{name}.source", data(suite.source)


def _model(reference: str, online: bool) -> Fingerprint:
    if reference.startswith("bundled/"):
        path = Path(str(resources.files("opd") / reference))
    else:
        path = expanded(reference)
    if path.is_dir():
        return _model_folder(path, online)
    if path.is_file():
        return {"weights": digest_of([path])}
    return _revision(reference, "model", "config.json", online)


def _model_folder(folder: Path, online: bool) -> Fingerprint:
    weights = [
        *(p for p in folder.glob("*.safetensors") if p.name not in CHECKPOINT_STATE),
        *folder.glob("*.safetensors.index.json"),
        *folder.glob("*.gguf"),
    ]
    adapter = [p for p in weights if p.name == ADAPTER_WEIGHTS] + [*folder.glob(ADAPTER)]
    settings, own_template = _tokenizer_settings(folder)
    tokenizer = [p for p in files_of(folder) if p.name != TOKENIZER_SETTINGS]
    templates = [p for p in tokenizer if "chat_template" in str(p.relative_to(folder))]
    parts = {
        "weights": digest_of([p for p in weights if p not in adapter]),
        "adapter": digest_of(adapter),
        "model settings": digest_of(_model_settings(folder)),
        "tokenizer": digest_of([p for p in tokenizer if p not in templates], more=settings),
        "chat template": digest_of(templates, more=own_template),
    }
    if is_adapter(folder):
        parts |= {f"base model's {name}": part for name, part in _base(folder, online).items()}
    return {name: part for name, part in parts.items() if part}


def _model_settings(folder: Path) -> list[Path]:
    others = (ADAPTER, TOKENIZER_SETTINGS)
    return [p for p in folder.glob("*config.json") if p.name not in others]


def _base(folder: Path, online: bool) -> Fingerprint:
    """Of the model that an adapter was made for; nothing where its folder does not say."""
    try:
        local_chain(folder, where=str(folder))  # raises where adapters name each other
        base = base_reference(folder, where=str(folder))
    except UserError:
        return {}
    return _model(base, online)


def _tokenizer_settings(folder: Path) -> tuple[str, str]:
    """The tokenizer's settings and the chat template among them, as text; empty without them."""
    settings = _json(folder / TOKENIZER_SETTINGS)
    template = settings.pop("chat_template", None)
    texts = (json.dumps(part, sort_keys=True) if part else "" for part in (settings, template))
    return next(texts), next(texts)


def _data(reference: str, online: bool) -> Fingerprint:
    if reference in BUNDLED_DATA:
        return {}
    path = expanded(reference)
    if path.is_dir():
        files = (p for p in path.rglob("*") if p.is_file() and not p.name.startswith("cache-"))
        shown = [p for p in files if not any(n[0] == "." for n in p.relative_to(path).parts)]
        return {"content": digest_of(shown, DATA_LIMIT) | {"file": path.name}}
    if path.is_file():
        rows = _row_count(path)
        return {"content": digest_of([path], DATA_LIMIT) | {"file": path.name, "rows": rows}}
    return _revision(reference, "dataset", "README.md", online)


def _row_count(path: Path) -> int | None:
    """The rows of JSON lines or Parquet; None where they cannot be counted cheaply."""
    if path.suffix == ".parquet":
        import pyarrow as pa  # noqa: PLC0415 - only where there is Parquet
        import pyarrow.parquet as pq  # noqa: PLC0415

        try:
            return int(pq.read_metadata(path).num_rows)
        except (OSError, pa.ArrowException):
            return None
    if path.suffix not in (".jsonl", ".ndjson") or path.stat().st_size > DATA_LIMIT:
        return None
    with path.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def _revision(reference: str, kind: str, file: str, online: bool) -> Fingerprint:
    """The commit that the hub, or without it its cache, gives for a repository."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - only for the hub
    from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415

    from opd.network import hub_proxy  # noqa: PLC0415 - imports httpx, only for the hub

    if reference.count("/") > 1 or reference.startswith(("bundled/", "/", ".", "~")):
        return {}
    try:
        if online:
            hub_proxy()
        folder = snapshot_download(
            reference, repo_type=kind, allow_patterns=[file], local_files_only=not online
        )
    except (HfHubHTTPError, OSError, ValueError, UserError):
        return {}
    return {"revision": {"digest": Path(folder).name}}


def _served(teacher: RouteConfig) -> Fingerprint:
    """What a server says it serves; nothing where it does not answer at once."""
    from opd.teachers.vllm_client import RemoteTeacher  # noqa: PLC0415 - only for servers

    remote = RemoteTeacher(teacher.model_copy(update={"retries": 0}))
    try:
        served = remote.served_model()
    except UserError:
        return {}
    finally:
        remote.close()
    return {} if served is None else {"served model": {"digest": served}}


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
