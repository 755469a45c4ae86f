"""Rows of text files: JSON lines, a JSON array, CSV, TSV; also compressed; UTF-8 or UTF-16."""

import bz2
import csv
import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from opd.data.rows import Row, bad_data
from opd.errors import one_line

MAX_LINE_BYTES = 4_000_000
COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
COMPRESSED_ENDINGS = (".gz", ".bz2", ".xz")
REFUSED = {
    b"\x28\xb5\x2f\xfd": "is compressed with Zstandard; decompress it with zstd -d, or use gzip",
    b"PK\x03\x04": "is a ZIP archive or a spreadsheet; unpack it, or save it as CSV",
}
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
SEPARATED = {".csv": ",", ".tsv": "\t"}
OTHER_SEPARATORS = (";", "\t")  # of a .csv whose header has no comma
WRAPPERS = ("data", "rows", "examples", "instances", "train")  # of {"data": [row, …]}
PROMPTS = ("prompt", "messages", "conversations")


def file_rows(path: Path, field: str) -> Iterator[Row]:
    """Raises UserError: at `field` for a file that cannot be read, else at the line or row."""
    ending = text_ending(path)
    try:
        with _opened(path, field) as stream:
            if ending in SEPARATED:
                yield from _separated(stream, path, SEPARATED[ending])
            else:
                yield from _json_rows(stream, path, whole=ending == ".json")
    except UnicodeDecodeError as error:
        raise bad_data(field, f"{path} is not UTF-8 text: {error.reason}") from None
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise bad_data(field, f"{path} cannot be read: {reason}") from None


def text_ending(path: Path) -> str:
    """The ending that says what the text is: .csv of data.csv.gz."""
    inner = path.with_suffix("") if path.suffix.lower() in COMPRESSED_ENDINGS else path
    return inner.suffix.lower()


@contextmanager
def _opened(path: Path, field: str) -> Iterator[TextIO]:
    with path.open("rb") as file:
        head = file.read(8)
    for magic, reason in REFUSED.items():
        if head.startswith(magic):
            raise bad_data(field, f"{path} {reason}")
    opener = next((o for magic, o in COMPRESSED.items() if head.startswith(magic)), open)
    with opener(path, "rb") as binary:
        encoding = "utf-16" if binary.read(2) in UTF_16 else "utf-8-sig"
        binary.seek(0)
        with TextIOWrapper(binary, encoding=encoding, newline="") as stream:
            yield stream


def _json_rows(stream: TextIO, path: Path, *, whole: bool) -> Iterator[Row]:
    """`whole`: the file may be one document, so that a long first line is not refused."""
    lines = ((n, line) for n, line in enumerate(stream, 1) if line.strip())
    number, first = next(lines, (0, ""))
    if not first:
        return
    if first.lstrip().startswith("[") or (whole and len(first) > MAX_LINE_BYTES):
        yield from _document_rows(_document(first + stream.read(), path, number), path)
        return
    second = next(lines, None)
    try:
        row = _object(first, f"{path}:{number}")
    except ValueError:
        row = None
    if row is None or second is None:
        text = first + (second[1] if second else "") + stream.read()
        yield from _document_rows(_document(text, path, number), path)
        return
    yield Row(row, f"{path}:{number}")
    for number, line in chain([second], lines):
        try:
            yield Row(_object(line, f"{path}:{number}"), f"{path}:{number}")
        except (ValueError, RecursionError) as error:
            raise bad_data(f"{path}:{number}", f"not valid JSON: {error}") from None


def _object(line: str, where: str) -> dict[str, Any]:
    """Raises ValueError for what is not JSON, UserError for what is not an object."""
    if len(line) > MAX_LINE_BYTES:
        raise bad_data(where, f"the line is longer than {MAX_LINE_BYTES} characters")
    data = json.loads(line)
    if not isinstance(data, dict):
        raise bad_data(where, "must be a JSON object")
    return data


def _document(text: str, path: Path, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{first_line + error.lineno - 1}"
        raise bad_data(where, f"not valid JSON: {error}") from None
    except RecursionError as error:
        raise bad_data(f"{path}:{first_line}", f"not valid JSON: {error}") from None


def _document_rows(document: Any, path: Path) -> Iterator[Row]:
    """Of an array, of an object around one (`{"data": […]}`), or one row."""
    within = ""
    if isinstance(document, dict):
        name = _wrapper(document)
        if name is None:
            yield Row(document, f"{path}:1")
            return
        document, within = document[name], f" {name}"
    for number, item in enumerate(document, 1):
        where = f"{path}{within} row {number}"
        if not isinstance(item, dict):
            raise bad_data(where, f"must be a JSON object (got {item!r:.100})")
        yield Row(item, where)


def _wrapper(document: Mapping[str, Any]) -> str | None:
    if any(name in document for name in PROMPTS):
        return None
    names = [n for n in WRAPPERS if isinstance(document.get(n), list) and document[n]]
    return names[0] if len(names) == 1 and isinstance(document[names[0]][0], dict) else None


def _separated(stream: TextIO, path: Path, separator: str) -> Iterator[Row]:
    """Values as text; an empty one is none."""
    csv.field_size_limit(MAX_LINE_BYTES)
    head = stream.readline()
    if "," not in head and separator == ",":
        separator = next((s for s in OTHER_SEPARATORS if s in head), separator)
    reader = csv.reader(chain([head], stream), delimiter=separator, strict=True)
    line = 1
    try:
        names = [name.strip() for name in next(reader)]
        if repeated := {n for n in names if names.count(n) > 1}:
            raise bad_data(f"{path}:1", f"column {min(repeated)!r} occurs more than once")
        line = reader.line_num + 1
        for values in reader:
            if values and len(values) != len(names):
                raise bad_data(
                    f"{path}:{line}", f"has {len(values)} values; the header has {len(names)}"
                )
            if values:
                row = {n: v or None for n, v in zip(names, values, strict=True)}
                yield Row(row, f"{path}:{line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise bad_data(f"{path}:{line}", f"not valid CSV: {error}") from None
