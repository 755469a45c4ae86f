"""The files that hold a model's weights, and what their headers say. Free of torch.

A folder often holds the same weights more than once (consolidated, original, ONNX, pickled, GGUF):
only the files that transformers reads count.
"""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opd.errors import ErrorKind, UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_HEADER_BYTES = 100_000_000
LFS_POINTER = b"version https://git-lfs"
DOWNLOAD = "download the folder again (git lfs pull, or hf download)"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a safetensors header names it: `dtype` is F32, BF16, U8 and so on."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers reads: model.safetensors, else those of the index.

    Files named by the index count whether or not they are there. Empty without either. Raises
    ValueError and OSError for an unreadable index.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        return []
    files = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    return [folder / name for name in sorted(set(files.values()))]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name. Raises ValueError for one that is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if (start + file.read(len(LFS_POINTER) - 8)) == LFS_POINTER:
            raise ValueError(f"is a Git LFS pointer, not the weights; {DOWNLOAD}")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"is not a whole safetensors file; {DOWNLOAD}")
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max((int(t["data_offsets"][1]) for t in header.values()), default=0)
            tensors = {n: StoredTensor(t["dtype"], tuple(t["shape"])) for n, t in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ValueError(f"has no readable header ({error}); {DOWNLOAD}") from None
    if 8 + length + end > size:
        raise ValueError(f"is cut off: {size:,} of {8 + length + end:,} bytes; {DOWNLOAD}")
    return tensors


def read_headers(folder: Path, *, where: str) -> dict[str, StoredTensor]:
    """All stored tensors of a model folder, by name.

    Raises UserError, naming the file, for weights that are missing, cut off or a Git LFS pointer.
    """
    try:
        files = weight_files(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise missing_model(f"{folder / INDEX} cannot be read: {error}", where) from None
    if not files:
        raise missing_model(f"{folder} has {_instead(folder)}", where)
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise missing_model(
            f"{len(absent)} of {len(files)} weight files named by {folder / INDEX} are missing, "
            f"first {absent[0]}; {DOWNLOAD}",
            where,
        )
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        tensors |= checked_header(path, where=where)
    return tensors


def checked_header(path: Path, *, where: str) -> dict[str, StoredTensor]:
    """`read_header`; raises UserError in place of ValueError and OSError."""
    try:
        return read_header(path)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        raise missing_model(f"{path} {text}", where) from None


def refuse_pointer(path: Path, *, where: str) -> None:
    """Raises UserError for a file that Git LFS has not fetched."""
    try:
        with path.open("rb") as file:
            pointer = file.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        return  # said by what reads it
    if pointer:
        raise missing_model(f"{path} is a Git LFS pointer, not the file; {DOWNLOAD}", where)


def _instead(folder: Path) -> str:
    """What a folder without transformers' weight files has, and what to do."""
    pickled = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_ENDINGS)
    others = sorted(p.name for p in folder.glob("*.safetensors"))
    if others:
        return (
            f"neither {SINGLE} nor {INDEX} (it has {', '.join(others[:3])}); save the model with "
            "save_pretrained, or download the whole folder"
        )
    weights = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
    return f"{weights}; save the model with save_pretrained (safetensors)"


def missing_model(message: str, where: str) -> UserError:
    return UserError(message, where=where, kind=ErrorKind.MISSING_MODEL)


def stored_numbers(folder: Path) -> int | None:
    """How many numbers the folder's weight files hold; None where they cannot be read."""
    try:
        tensors = read_headers(folder, where="")
    except UserError:
        return None
    return sum(t.numbers for t in tensors.values())


def read_object(path: Path, *, where: str) -> dict[str, Any]:
    """A JSON object from a file. Raises UserError."""
    refuse_pointer(path, where=where)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise missing_model(f"{path} cannot be read: {error}", where) from None
    if not isinstance(data, dict):
        raise missing_model(f"{path} is not a JSON object", where)
    return data
