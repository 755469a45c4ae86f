"""The browser scripts as a graph: which modules a page's own one reaches."""

import re
from collections.abc import Mapping
from pathlib import Path

STATIC = Path(__file__).parent / "static"
SPECIFIER = re.compile(r"""(\bfrom\s*|\bimport\s*\(?\s*)(["'])\./([\w.-]+\.js)\2""")


def sources(entry: str, instead: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name → source of every module that `entry` reaches, itself first.

    A module named in `instead` comes under its own name with the source of the other.
    """
    found: dict[str, str] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop(0)
        if name in found:
            continue
        source = (STATIC / (instead or {}).get(name, name)).read_text(encoding="utf-8")
        waiting += [match[3] for match in SPECIFIER.finditer(source)]
        found[name] = source
    return found
