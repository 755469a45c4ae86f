"""The browser scripts as a graph: which modules a page's own one reaches."""

import posixpath
import re
from collections.abc import Callable, Mapping
from pathlib import Path

STATIC = Path(__file__).parent / "static"
SPECIFIER = re.compile(r"""(\bfrom\s*|\bimport\s*\(?\s*)(["'])(\.{1,2}/[\w./-]+\.js)\2""")


def sources(entry: str, instead: Mapping[str, str] | None = None) -> dict[str, str]:
    """Path below static/ → source of every module that `entry` reaches, itself first.

    A module named in `instead` comes under its own path with the source of the other.
    """
    reached: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        path = waiting.pop(0)
        if path in reached:
            continue
        actual = (instead or {}).get(path, path)
        source = (STATIC / actual).read_text(encoding="utf-8")
        waiting += [resolve(actual, match[3]) for match in SPECIFIER.finditer(source)]
        reached[path] = source
    return reached


def resolve(importer: str, specifier: str) -> str:
    """The path below static/ that a module at `importer` means by a relative specifier."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(importer), specifier))


def renamed(importer: str, source: str, name: Callable[[str], str]) -> str:
    """The source of the module at `importer`, each import of a path p written as `name(p)`."""
    return SPECIFIER.sub(
        lambda match: f"{match[1]}{match[2]}{name(resolve(importer, match[3]))}{match[2]}", source
    )


def style_sheets() -> list[str]:
    """Paths below static/ of every style sheet, in the order in which they apply."""
    return [f"css/{path.name}" for path in sorted((STATIC / "css").glob("*.css"))]
