"""A folder below a root as a list to choose models or data from: a page of it, cheaply.

Names are read for the whole folder, everything else only for the entries of the page.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.sources.roots import SourceKind, inside, leads_outside, opened
from opd.config.folders import DATA_ENDINGS
from opd.errors import ErrorKind, UserError

MAX_NAMES = 100_000  # read of one folder
SAVED = ("state.json", "dataset_dict.json")  # of a data set saved by `datasets`
DESCRIPTIONS = ("dataset_infos.json", "dataset_info.json", "config.json", *SAVED)
NO_DATA = (".zst", ".zip")  # refused when they are read


@dataclass(frozen=True)
class Look:
    """What is asked of a folder; `search` is looked for in names, ignoring case."""

    kind: SourceKind
    search: str = ""
    limit: int = 50
    offset: int = 0

    def finds(self, name: str) -> bool:
        return self.search.casefold() in name.casefold()

    @property
    def page(self) -> slice:
        return slice(self.offset, self.offset + self.limit)


@dataclass(frozen=True)
class _Name:
    text: str
    folder: bool
    link: bool


def listed(root: Path, relative: str, look: Look) -> dict[str, Any]:
    """{"items", "total", "left_out", "more", "here"}: folders first, then files to choose from.

    `value` of an entry, and of the folder itself (`here`), is what a configuration names; null for
    what cannot be chosen. `left_out` counts links that lead outside the root or nowhere, and names
    that are not readable text. `more`: the folder has more names than are read. Raises UserError.
    """
    folder = inside(root, relative)
    try:
        names, unreadable, more = _names(folder)
    except OSError as error:
        raise UserError(
            f"the folder cannot be listed: {error.strerror}", where="path", kind=ErrorKind.NOT_FOUND
        ) from None
    prefix = f"{relative.strip('/')}/" if relative.strip("/") else ""
    lost = {n for n in names if n.link and not _leads_inside(root, f"{prefix}{n.text}")}
    kept = [n for n in names if n not in lost and _fits(n, look)]
    kept.sort(key=lambda n: (not n.folder, n.text.casefold(), n.text))
    items = (_entry(root, f"{prefix}{name.text}", name, look.kind) for name in kept[look.page])
    return {
        "items": [item for item in items if item is not None],
        "total": len(kept),
        "left_out": unreadable + len(lost),
        "more": more,
        "here": _here(root, folder, names, look.kind) | {"path": prefix.rstrip("/")},
    }


def _here(root: Path, folder: Path, names: list[_Name], kind: SourceKind) -> dict[str, Any]:
    """The folder itself as something to choose: a model, or one that holds data files."""
    item = _described(root, folder, _Name(folder.name, folder=True, link=False), kind)
    holds_data = any(not name.folder and _is_data(name.text) for name in names)
    if kind == "data" and holds_data:
        item["value"] = str(folder)
    return item


def _names(folder: Path) -> tuple[list[_Name], int, bool]:
    """The names that are not hidden, how many are not readable text, and whether there are more.

    Raises OSError.
    """
    names: list[_Name] = []
    unreadable = 0
    with opened(folder) as descriptor, os.scandir(descriptor) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.name.isprintable():
                unreadable += 1
                continue
            if len(names) == MAX_NAMES:
                return names, unreadable, True
            names.append(_Name(entry.name, entry.is_dir(), entry.is_symlink()))
    return names, unreadable, False


def _leads_inside(root: Path, relative: str) -> bool:
    try:
        inside(root, relative)
    except UserError:
        return False
    return True


def _fits(name: _Name, look: Look) -> bool:
    if not look.finds(name.text):
        return False
    if name.folder:
        return True
    return name.text.lower().endswith(".gguf") if look.kind == "model" else _is_data(name.text)


def _is_data(name: str) -> bool:
    return name.lower().endswith(DATA_ENDINGS) and not (
        name.lower().endswith(NO_DATA) or name in DESCRIPTIONS
    )


def _entry(root: Path, relative: str, name: _Name, kind: SourceKind) -> dict[str, Any] | None:
    """None for what leads outside, or was changed while it was looked at."""
    try:
        path = inside(root, relative)
        item = _described(root, path, name, kind)
        return {**item, "path": relative} if inside(root, relative) == path else None
    except (UserError, OSError):
        return None


def _described(root: Path, path: Path, name: _Name, kind: SourceKind) -> dict[str, Any]:
    from opd.models.folders.summary import summary_of  # noqa: PLC0415 - imports the hub's library

    status = path.stat()
    value: str | None = str(path)
    model = None
    if kind == "model":
        outside = leads_outside(root, path) if name.folder else None
        summary = summary_of(path) if outside is None else None
        model = None if summary is None else asdict(summary)
        if summary is None or summary.problem:
            value = None
    elif name.folder and not any((path / saved).is_file() for saved in SAVED):
        value = None
    return {
        "name": name.text,
        "folder": name.folder,
        "value": value,
        "bytes": None if name.folder else status.st_size,
        "modified": status.st_mtime,
        "model": model,
    }
