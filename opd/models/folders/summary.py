"""What a folder or GGUF file is as a model, told without its weights: for lists to choose from.

Free of torch.
"""

from dataclasses import dataclass
from pathlib import Path

from opd.config.folders import check_folder
from opd.config.gguf.header import check_file, is_gguf
from opd.config.model_files.adapters import check_adapter, is_adapter
from opd.config.model_files.weights import ADAPTER, read_object, weight_files
from opd.errors import UserError
from opd.models.architecture import Architecture, architecture_of


@dataclass(frozen=True)
class ModelSummary:
    """`form` is model, adapter or GGUF; `problem`, why it cannot be loaded, in words."""

    form: str
    kind: str = ""
    parameters: int | None = None
    layers: int | None = None
    hidden: int | None = None
    context: int | None = None
    bytes: int | None = None
    base: str = ""
    rank: int | None = None
    problem: str = ""


def summary_of(path: Path) -> ModelSummary | None:
    """None for what is no model. Of an adapter, its base is named and not looked at."""
    try:
        if is_gguf(path):
            check_file(path, where="")
            return _measured("GGUF", path, path.stat().st_size)
        if is_adapter(path):
            return _adapter(path)
        return _folder(path)
    except UserError as error:
        form = "GGUF" if is_gguf(path) else "adapter" if is_adapter(path) else "model"
        return ModelSummary(form, problem=_within(path, error))


def _folder(path: Path) -> ModelSummary | None:
    config = path / "config.json"
    if not config.is_file():
        return None
    settings = read_object(config, where="")
    if "model_type" not in settings and "architectures" not in settings:
        return None  # of something else: many programs call their settings so
    try:
        check_folder(path, where="")
    except UserError as error:
        kind = str(settings.get("model_type", ""))
        return ModelSummary("model", kind=kind, problem=_within(path, error))
    return _measured("model", path, sum(f.stat().st_size for f in weight_files(path)))


def _adapter(path: Path) -> ModelSummary:
    settings = read_object(path / ADAPTER, where="")
    rank = settings.get("r")
    named = ModelSummary(
        "adapter",
        kind=str(settings.get("peft_type", "")),
        base=str(settings.get("base_model_name_or_path") or ""),
        rank=rank if isinstance(rank, int) else None,
        bytes=sum(f.stat().st_size for f in path.glob("adapter_model.safetensors")),
    )
    try:
        check_adapter(path, where="")
    except UserError as error:
        return ModelSummary("adapter", base=named.base, problem=_within(path, error))
    return named


def _measured(form: str, path: Path, size: int) -> ModelSummary:
    architecture: Architecture | None = architecture_of(str(path), where="")
    if architecture is None:
        return ModelSummary(form, bytes=size)
    return ModelSummary(
        form,
        kind=architecture.kind,
        parameters=architecture.parameters,
        layers=architecture.layers,
        hidden=architecture.hidden,
        context=architecture.context,
        bytes=size,
    )


def _within(path: Path, error: UserError) -> str:
    """The message with names of files instead of their whole paths."""
    return error.message.replace(f"{path.resolve()}/", "").replace(f"{path}/", "")
