"""Folders that the server may list (`opd serve --model-root`, `--data-root`), and nothing outside.

A root is resolved once, when the server starts. A folder below it is resolved at each look and
opened part by part without following a link, so that a link swapped since, or between the check
and the opening, opens nothing.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opd.errors import ErrorKind, UserError
from opd.files import expanded

SourceKind = Literal["model", "data"]
MAX_PARTS = 64
UPLOAD_BYTES = 200_000_000


@dataclass(frozen=True)
class SourceOptions:
    """What can be chosen beside what is bundled; `upload_bytes` 0: no uploads are taken."""

    model_roots: Sequence[Path] = ()
    data_roots: Sequence[Path] = ()
    upload_bytes: int = UPLOAD_BYTES

    def roots(self, kind: SourceKind) -> Sequence[Path]:
        return self.model_roots if kind == "model" else self.data_roots


NO_ROOTS = SourceOptions()


def checked_roots(given: Sequence[str], option: str) -> tuple[Path, ...]:
    """The folders behind the values of an option, each once. Raises UserError naming the value."""
    roots: list[Path] = []
    for text in given:
        try:
            path = expanded(text).resolve(strict=True)
            with opened(path) as folder:
                os.listdir(folder)
        except (OSError, RuntimeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"{text!r} cannot be listed: {reason}; give a folder that exists", where=option
            ) from None
        if path not in roots:
            roots.append(path)
    return tuple(roots)


def inside(root: Path, relative: str) -> Path:
    """The file or folder below the root, all links followed.

    Raises UserError, the same whether it is missing, hidden, or leads outside.
    """
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    refusal = UserError(
        "there is no such file or folder below this root", where="path", kind=ErrorKind.NOT_FOUND
    )
    if relative.startswith("/") or len(parts) > MAX_PARTS or _hidden(parts):
        raise refusal
    try:
        path = root.joinpath(*parts).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle, on old Pythons
        raise refusal from None
    if not path.is_relative_to(root) or _hidden(path.relative_to(root).parts):
        raise refusal
    return path


def leads_outside(root: Path, folder: Path) -> str | None:
    """The first of a folder's links that leads outside the root."""
    with os.scandir(folder) as entries:
        links = sorted(entry.name for entry in entries if entry.is_symlink())
    for name in links:
        try:
            if not (folder / name).resolve().is_relative_to(root):
                return name
        except (OSError, RuntimeError):
            return name
    return None


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a folder whose path holds no link. Raises OSError where it holds one."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    descriptor = os.open(path.anchor, flags)
    try:
        for part in path.parts[1:]:
            below = os.open(part, flags, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _hidden(parts: Sequence[str]) -> bool:
    """Whether one of the names is hidden; `..` is, too."""
    return any(part.startswith(".") or "\0" in part for part in parts)
