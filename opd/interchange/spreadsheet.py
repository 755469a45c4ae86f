"""Tables for spreadsheets and data frames: CSV that runs no formula, and flat Parquet.

In CSV, a text that a spreadsheet might run as a formula has an apostrophe before it, which
spreadsheets take as "this is text" and do not show; so has one that itself begins with an
apostrophe. Whoever reads the file takes one leading apostrophe off a text and has it back exactly.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# Wide forms too: some spreadsheets take them for the narrow ones.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
QUOTE = "'"
GROUP_ROWS = 1024
# Columns of a table of rollouts, with the type that Parquet gives them.
ROLLOUT_COLUMNS: Mapping[str, str] = {
    "id": "string",
    "run_id": "string",
    "step": "int64",
    "kind": "string",
    "group": "int64",
    "sample": "int64",
    "prompt": "string",
    "completion": "string",
    "answer": "string",
    "extracted": "string",
    "right": "bool",
    "reward": "double",
    "finish_reason": "string",
    "tokens": "int64",
    "kl_sum": "double",
    "kl_mean": "double",
    "kl_max": "double",
    "log_ratio_sum": "double",
    "student_logprob_sum": "double",
    "temperature": "double",
    "author": "string",
    "teacher_end": "string",
    "marks": "string",
    "staleness": "int64",
}


def csv_line(values: Iterable[Any]) -> str:
    """One line, with its end."""
    line = io.StringIO()
    csv.writer(line).writerow([_cell(value) for value in values])
    return line.getvalue()


def csv_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A table of rollouts with its head."""
    yield csv_line(ROLLOUT_COLUMNS)
    for row in rows:
        yield csv_line(row[name] for name in ROLLOUT_COLUMNS)


def parquet_pieces(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """A table of rollouts as the bytes of a Parquet file, GROUP_ROWS rows at a time."""
    import pyarrow as pa  # noqa: PLC0415 - the server starts without it
    import pyarrow.parquet as pq  # noqa: PLC0415

    schema = _schema(pa)
    source = iter(rows)
    written = _Bytes()
    with pq.ParquetWriter(written, schema, compression="zstd") as writer:
        while group := [dict(row) for row in islice(source, GROUP_ROWS)]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            yield written.taken()
    yield written.taken()


def _schema(pa: Any) -> "pa.Schema":
    types = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    return pa.schema([(name, types[kind]) for name, kind in ROLLOUT_COLUMNS.items()])


class _Bytes(io.RawIOBase):
    """A file that is handed on as it is written."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._length += len(part)
        return len(part)

    def tell(self) -> int:
        return self._length

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, (int, float)):
        return str(value)
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    starts = (text[:1], text.lstrip()[:1])
    return f"{QUOTE}{text}" if starts[0] == QUOTE or _is_formula(starts) else text


def _is_formula(starts: tuple[str, str]) -> bool:
    return any(start in FORMULA_STARTS for start in starts if start)
