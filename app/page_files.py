"""The pages' own files: scripts, style sheets, texts.

A page asks for them below `static/EDITION/`, where EDITION follows from what all of them hold:
browsers keep those and ask no more, and a server that was updated names others.
"""

import hashlib
import importlib.util
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.scripts import STATIC

PLOTLY = "plotly.min.js"
KEPT = "private, max-age=31536000, immutable"
GRADIO_FILES = ("gradio", "templates/frontend/static")
Signature = tuple[int, int]  # bytes, and when it was changed


@cache
def edition() -> str:
    """The folder below static/ under which the files are those that this process found first."""
    digest = hashlib.sha256()
    for name in _signatures():
        content = (STATIC / name).read_bytes()
        digest.update(f"{name} {len(content)} ".encode() + content)
    return f"e-{digest.hexdigest()[:16]}"


@cache
def _signatures() -> Mapping[str, Signature]:
    files = sorted(path for path in STATIC.rglob("*") if path.is_file())
    return {path.relative_to(STATIC).as_posix(): _signature(path.stat()) for path in files}


def _signature(status: os.stat_result) -> Signature:
    return status.st_size, status.st_mtime_ns


class PageFiles(StaticFiles):
    """Ours first, then Gradio's under the same address; plotly.js out of the installed package,
    whose Python part is not imported. What was not asked for by the edition, or has been changed
    since, browsers ask about each time."""

    def __init__(self) -> None:
        super().__init__(directory=STATIC, packages=[GRADIO_FILES])
        self._edition = edition()

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if path == PLOTLY:
            spec = importlib.util.find_spec("plotly")
            folder = Path(spec.origin).parent if spec and spec.origin else STATIC
            file = folder / "package_data" / PLOTLY
            return str(file), file.stat() if file.is_file() else None
        return super().lookup_path(path)

    async def get_response(self, path: str, scope: Scope) -> Response:
        first, _, rest = path.partition("/")
        if not (rest and first.startswith("e-")):
            return await super().get_response(path, scope)
        response = await super().get_response(rest, scope)  # of an older page: as it is now
        if first == self._edition and self._unchanged(rest):
            response.headers["cache-control"] = KEPT
        return response

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response

    def _unchanged(self, name: str) -> bool:
        _, status = super().lookup_path(name)
        return status is not None and _signatures().get(name) == _signature(status)
