"""Whether an uploaded file can be read as rows: python -m app.sources.upload_check FILE.

A process of its own, so that a file that takes all memory or hours to read takes neither from the
server. It prints one JSON object: `rows`, `form` and `note`, or `error` and `where`.
"""

import json
import resource
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from app.worker.process import program
from opd.errors import ErrorKind, UserError

if TYPE_CHECKING:
    from opd.config.data import PromptsConfig
    from opd.data.rows import Table

SECONDS = 120
MOST_MEMORY = 4 * 10**9
ROWS_TRIED = 1000  # as prompts, with the default columns
CHUNK = 1000
CHECK = program("app.sources.upload_check")
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class UploadContents:
    """`form` is what the first rows were read as; `note`, why some cannot be used as they are."""

    rows: int
    form: str
    note: str = ""


def check(path: Path, *, seconds: float = SECONDS) -> UploadContents:
    """What the file holds, read in another process. Raises UserError with line and reason."""
    command = [*CHECK, str(path)]
    with _one_at_a_time:
        try:
            done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise _refused(f"takes longer than {seconds:g} seconds to read; split it") from None
    try:
        contents = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise _refused(f"cannot be read: {last or 'reading it was broken off'}") from None
    if "error" in contents:
        raise UserError(contents["error"], where=contents["where"], kind=ErrorKind.BAD_DATA)
    return UploadContents(**contents)


def contents(path: Path) -> UploadContents:
    """What the file holds: every row is read. Raises UserError with line and reason."""
    from opd.config.data import PromptsConfig  # noqa: PLC0415 - the server does not read rows
    from opd.data.sources import RowSelection, open_table  # noqa: PLC0415

    data = PromptsConfig.model_validate({"source": str(path)})
    table = open_table(data, str(path), RowSelection(data.split, sys.maxsize, path.name))
    for first in range(0, table.count, CHUNK):
        table.take(range(first, min(table.count, first + CHUNK)))
    return UploadContents(table.count, *_as_prompts(data, table))


def _as_prompts(data: "PromptsConfig", table: "Table") -> tuple[str, str]:
    from opd.data.mapping import Mapper  # noqa: PLC0415
    from opd.data.preview import preview_rows  # noqa: PLC0415

    try:
        seen = preview_rows(Mapper(data, table, "prompts"), count=0, most=ROWS_TRIED)
    except UserError as error:
        return "", str(error)
    if not seen.problems:
        return seen.form, ""
    (where, message), tried = seen.problems[0], seen.tried
    return (
        seen.form,
        f"{seen.unusable} of the first {tried} rows cannot be used: {where}: {message}",
    )


def _refused(message: str) -> UserError:
    return UserError(message, where="file", kind=ErrorKind.BAD_DATA)


def checked(path: Path) -> dict[str, Any]:
    """What the process prints of the file."""
    most = min(MOST_MEMORY, psutil.virtual_memory().available // 2)
    with suppress(ValueError, OSError):  # a lower limit is in force
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        return dict(vars(contents(path)))
    except UserError as error:
        return {"error": error.message, "where": error.where}
    except MemoryError:
        return {"error": f"needs over {most / 1e9:.1f} GB of memory to read; split it", "where": ""}


def main() -> None:
    print(json.dumps(checked(Path(sys.argv[1]))))  # noqa: T201 - its result


if __name__ == "__main__":
    main()
