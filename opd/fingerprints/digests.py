"""Digests of files: whole ones, and of large ones blocks at even distances."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Part = dict[str, Any]  # {"digest": …} and what people are told about it: bytes, rows, file
MEGABYTE = 1 << 20
BLOCK = 256 * 1024
LEAST_BLOCKS = 16  # of each of many files
WHOLE = 256 * MEGABYTE  # up to here, nothing is left out


def digest_of(paths: Iterable[Path], limit: int = WHOLE, *, more: str = "") -> Part:
    """Digest and bytes of files by their names, and of a text; nothing of no files and no text."""
    files = sorted(p for p in paths if p.is_file())
    if not files and not more:
        return {}
    digest = hashlib.sha256(more.encode("utf-8", "replace"))
    sizes = [file.stat().st_size for file in files]
    whole = sum(sizes) <= limit
    blocks = max(LEAST_BLOCKS, limit // BLOCK // max(1, len(files)))
    for file, size in zip(files, sizes, strict=True):
        digest.update(f"\n{file.name} {size}\n".encode("utf-8", "replace"))
        for content in _content(file) if whole else _samples(file, size, blocks):
            digest.update(content)
    return {"digest": digest.hexdigest()[:32], "bytes": sum(sizes) + len(more)}


def _content(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while content := file.read(MEGABYTE):
            yield content


def _samples(path: Path, size: int, count: int) -> Iterator[bytes]:
    """Blocks at even distances from the file's start to its end."""
    with path.open("rb") as file:
        for number in range(count):
            file.seek(max(0, size - BLOCK) * number // (count - 1))
            yield file.read(BLOCK)
