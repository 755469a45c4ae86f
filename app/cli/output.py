"""What commands say: tables and progress for people, one line of JSON for scripts."""

import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TextIO

import typer

OUTPUT = "standard output"
EDGES = 4  # blanks at both edges of a table; three stand between two columns


def say(text: str = "") -> None:
    """For people: to standard error, which leaves standard output to results. Who cannot be told
    of it is not stopped by that."""
    with suppress(OSError):
        typer.echo(text, err=True)


class Lasting:
    """A stream that outlasts its terminal: what can no longer be written is dropped."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def result(text: str) -> None:
    with _named():
        typer.echo(text)


def json_line(data: Any) -> None:
    """Escapes what is not ASCII where standard output cannot take it."""
    plain_ascii = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
    options: dict[str, Any] = {"allow_nan": False, "separators": (",", ":")}
    result(json.dumps(data, ensure_ascii=plain_ascii, **options))


@contextmanager
def _named() -> Iterator[None]:
    """An error in writing results names standard output; a reader that has gone is another thing
    (BrokenPipeError)."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, OUTPUT) from None


def let_go() -> str | None:
    """Writes out what is held back; what cannot be written is dropped, lest the interpreter tries
    again at its end. Returns what was lost of results, for a reason other than a reader's leave."""
    lost = None
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())
            if stream is sys.stdout and not isinstance(error, BrokenPipeError):
                lost = f"{OUTPUT}: {error.strerror}"
    return lost


def json_list(items: Sequence[Any], total: int | None = None) -> None:
    json_line({"items": items, "total": len(items) if total is None else total})


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: str = "") -> None:
    """A plain table; columns named in `right` (comma-separated) are numbers. Words stay whole:
    where they do not fit side by side, each row is a paragraph."""
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    texts = [[plain(cell) for cell in row] for row in rows]
    widths = [
        max(cell_len(word) for text in column for word in text.split() or [""])
        for column in zip(columns, *texts, strict=True)
    ]
    if sum(widths) + 3 * (len(columns) - 1) + EDGES > console.width:
        _paragraphs(columns, texts)
        return
    grid = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column, width in zip(columns, widths, strict=True):
        numbers = column in right.split(",")
        grid.add_column(column, justify="right" if numbers else "left", min_width=width)
    for row in texts:
        grid.add_row(*map(Text, row))
    with _named():
        console.print(grid)


def _paragraphs(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Each row under the text of its first column, a line for each of the others."""
    width = max(len(column) for column in columns[1:])
    for first, *others in rows:
        result(f"\n{first}")
        for column, text in zip(columns[1:], others, strict=True):
            result(f"  {column:{width}}  {text}")


def plain(value: Any) -> str:
    """Text that cannot drive the terminal: control and direction characters become a mark."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}"
    return "".join("�" if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in str(value))


def scaled(value: float | None) -> str:
    """Three digits with the SI prefix of thousands: `16.5 G`."""
    if value is None:
        return "–"
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}"


def ago(moment: Any) -> str:
    """Seconds since 1970 as `3 min ago`."""
    if not isinstance(moment, int | float):
        return "–"
    seconds = max(0.0, time.time() - moment)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"
