"""bundled/smollm2 as a folder in the data directory: converted from its package once, by whichever
process needs it first.

The folder is named after the package's file by its SHA-256, so another version is another model.
Beside its files lies a manifest of theirs, and each use begins by comparing them.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from opd.config.gguf.smollm import SMOLLM2, smollm2_file
from opd.errors import ErrorKind, UserError
from opd.files import remove, written_aside
from opd.models.folders.progress import Say
from opd.training import checkpoint_manifest
from storage.data_dir import DataDir
from storage.locks import waiting

MANIFEST = "manifest.json"


def model_at_hand(data_dir: DataDir, reference: str, *, where: str, say: Say) -> str:
    """The reference, or the folder that it was converted into."""
    if reference != SMOLLM2:
        return reference
    return str(smollm2_folder(data_dir, where=where, say=say))


def smollm2_folder(data_dir: DataDir, *, where: str, say: Say) -> Path:
    """The converted model's folder; made where it is not there, or was damaged.

    Raises UserError where the package is missing, and for what cannot be written.
    """
    file = smollm2_file(where=where)
    folder = data_dir.models / f"smollm2-{_sha256(file, file.stat().st_mtime_ns)[:16]}"
    try:
        data_dir.models.mkdir(parents=True, exist_ok=True)
        with waiting(data_dir.models / f"{folder.name}.lock"):
            if not _is_whole(folder, _changed(folder)):
                say(f"converting {SMOLLM2}, once for all runs")
                remove(folder)
                _convert(file, folder, where)
    except OSError as error:
        raise UserError(
            f"{SMOLLM2} cannot be converted into {folder} (it takes 270 MB): {error.strerror}",
            where=where,
            kind=ErrorKind.MISSING_MODEL,
        ) from None
    return folder


def _convert(file: Path, folder: Path, where: str) -> None:
    from opd.models.folders.gguf import convert_gguf  # noqa: PLC0415 - loads torch
    from opd.models.folders.weights import quiet  # noqa: PLC0415

    quiet()
    with written_aside(folder, folder=True, durable=True) as aside:
        convert_gguf(file, aside, where=where)
        manifest = json.dumps(checkpoint_manifest.make(aside), indent=1)
        (aside / MANIFEST).write_text(manifest, encoding="utf-8")


@lru_cache(maxsize=2)
def _sha256(file: Path, changed: int) -> str:
    """Computed once a process, while the file stays as it is."""
    del changed
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _changed(folder: Path) -> tuple[int, ...]:
    """When each of the folder's files was last written."""
    return tuple(path.stat().st_mtime_ns for path in sorted(folder.glob("*")))


@lru_cache(maxsize=8)
def _is_whole(folder: Path, changed: tuple[int, ...]) -> bool:
    """Whether every file is as its manifest says; read once a process, while none changes."""
    del changed
    try:
        digests = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        checkpoint_manifest.verify(folder, digests)
    except (OSError, ValueError, AttributeError, UserError):
        return False
    return True
