"""A checkpoint's files: which are not of the model, and all by their SHA-256, which is made when
the folder is written and checked before it is read again.

Free of torch, so that a resume knows in a moment from which checkpoint it continues.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from opd.errors import ErrorKind, UserError

OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average.safetensors"
STATE = "trainer.json"
BESIDE_THE_MODEL = (OPTIMIZER, AVERAGE, STATE, "README.md")  # what a saved model is without


def folder_of(folder: Path, step: int) -> Path:
    """The checkpoint's folder of that step."""
    return folder / f"step-{step:06d}"


def make(folder: Path) -> dict[str, str]:
    """{file name: SHA-256} of a folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(path.relative_to(folder)): _sha256(path) for path in files}


def verify(folder: Path, digests: Mapping[str, str]) -> None:
    """Raises UserError naming the file that is missing or differs from the manifest."""
    for name, digest in digests.items():
        file = folder / name
        if not file.is_file():
            raise UserError(
                f"{file} is missing", where="checkpoint", kind=ErrorKind.DAMAGED_CHECKPOINT
            )
        if _sha256(file) != digest:
            raise UserError(
                f"{file} was changed since it was saved",
                where="checkpoint",
                kind=ErrorKind.DAMAGED_CHECKPOINT,
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
