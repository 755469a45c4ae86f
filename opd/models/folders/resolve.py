"""From what a user writes to folders: bundled, local, or downloaded from the hub."""

from collections.abc import Callable, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from opd.config.folders import BUNDLED_MODELS, check_folder, local_folder
from opd.config.model_files.adapters import base_reference, is_adapter
from opd.config.model_files.tokenizers import missing_file, tokenizer_folder
from opd.errors import ErrorKind, UserError, one_line
from opd.files import expanded
from opd.models.architecture import folder_at_hand
from opd.models.folders.progress import download_bar

TOKENIZER_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]  # and configurations
HUB_FILES = [*TOKENIZER_FILES, "*.safetensors"]


def silent(_: str) -> None:
    """Progress that nobody waits for."""


def resolve(reference: str, *, where: str, say: Callable[[str], None] = silent) -> Path:
    """The local folder or GGUF file of a model: bundled, given, or downloaded, with progress said.

    Raises UserError that says what is missing and what to do.
    """
    folder = local_folder(reference, where=where)
    if folder is None:
        folder = _download(reference, where=where, say=say)
        check_folder(folder, where=where)
    return folder


def base_folder(folder: Path, *, where: str, say: Callable[[str], None] = silent) -> Path:
    """The folder of the model that an adapter was made for. Raises UserError."""
    return resolve(base_reference(folder, where=where), where=where, say=say)


def folder_of_tokenizer(folder: Path, *, where: str, say: Callable[[str], None] = silent) -> Path:
    """The folder, or of its bases the first with a tokenizer: adapters are saved without one."""
    chain = [folder]
    while missing_file(chain[-1]) is not None and is_adapter(chain[-1]):
        chain.append(base_folder(chain[-1], where=where, say=say))
    return tokenizer_folder(chain, where=where)


def resolve_tokenizer(reference: str, *, where: str, say: Callable[[str], None] = silent) -> Path:
    """The folder or GGUF file with a model's tokenizer; from the hub it is fetched without weights.

    Raises UserError.
    """
    chain = [_without_weights(reference, where, say)]
    while missing_file(chain[-1]) is not None and is_adapter(chain[-1]):
        base = base_reference(chain[-1], where=where)
        chain.append(_without_weights(base, where, say))
    return tokenizer_folder(chain, where=where)


def _without_weights(reference: str, where: str, say: Callable[[str], None]) -> Path:
    folder = folder_at_hand(reference, where=where)
    if folder is not None and (is_adapter(folder) or missing_file(folder) is None):
        return folder
    return _download(reference, where=where, say=say, files=TOKENIZER_FILES)


def name_of(reference: str, folder: Path) -> str:
    """How what is made of a model names it: its hub id, else where it is on this disk."""
    if reference in BUNDLED_MODELS:
        return str(folder)
    written = expanded(reference)
    return str(written.absolute()) if written.exists() else reference


def _download(
    reference: str,
    *,
    where: str,
    say: Callable[[str], None],
    files: Sequence[str] = tuple(HUB_FILES),
) -> Path:
    from opd.network import hub_proxy, through  # noqa: PLC0415 - imports httpx, only for the hub

    proxy = hub_proxy()
    try:
        bar = download_bar(f"downloading {reference}", say)
        return Path(snapshot_download(reference, allow_patterns=list(files), tqdm_class=bar))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        gated = isinstance(error, RepositoryNotFoundError)  # of which a gated one is a kind
        advice = "; for a gated or private one, set HF_TOKEN" if gated else ""
        raise UserError(
            f"{reference!r} is no local folder and could not be fetched from the hub: "
            f"{one_line(error)}{through(proxy)}{advice}",
            where=where,
            kind=ErrorKind.MISSING_MODEL,
        ) from None
