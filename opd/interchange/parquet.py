"""Rollouts as Parquet: the JSON-lines fields with types, alternatives as structs."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from opd.errors import ErrorKind, UserError, one_line

GROUP_ROWS = 256
TOPK = ("student_topk", "teacher_topk")
BY_ID = ("token_texts", "token_bytes")
ALTERNATIVES = pa.list_(pa.list_(pa.struct([("id", pa.int64()), ("logprob", pa.float32())])))
FLOATS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int64()),
        ("kind", pa.string()),
        ("group", pa.int64()),
        ("sample", pa.int64()),
        ("prompt", pa.string()),
        ("completion", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int64())),
        ("completion_token_ids", pa.list_(pa.int64())),
        ("finish_reason", pa.string()),
        ("reward", pa.float64()),
        ("sampler_logprobs", FLOATS),
        ("student_logprobs", FLOATS),
        ("teacher_logprobs", FLOATS),
        ("reverse_kl", FLOATS),
        ("student_entropy", FLOATS),
        ("teacher_entropy", FLOATS),
        ("teacher_rank", pa.list_(pa.int64())),
        ("advantages", FLOATS),
        ("mask", FLOATS),
        ("student_topk", ALTERNATIVES),
        ("teacher_topk", ALTERNATIVES),
        ("temperature", pa.float64()),
        ("author", pa.string()),
        ("teacher_end", pa.string()),
        ("teacher", pa.string()),
        ("teacher_prompt", pa.string()),
        ("answer", pa.string()),
        ("data_row", pa.string()),  # JSON
        ("staleness", pa.int64()),
        ("marks", pa.list_(pa.struct([("position", pa.int64()), ("note", pa.string())]))),
        ("prompt_tokens", pa.list_(pa.string())),
        ("completion_tokens", pa.list_(pa.string())),
        ("token_texts", pa.list_(pa.struct([("id", pa.int64()), ("text", pa.string())]))),
        ("token_bytes", pa.list_(pa.struct([("id", pa.int64()), ("text", pa.string())]))),
    ]
)


def write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Writes the rows, some hundred at a time; returns how many."""
    source = iter(rows)
    count = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while chunk := list(islice(source, GROUP_ROWS)):
            typed = [_typed(row) for row in chunk]
            writer.write_table(pa.Table.from_pylist(typed, schema=SCHEMA))
            count += len(chunk)
    return count


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    typed = row | {name: _structs(row[name]) for name in TOPK if row.get(name)}
    if row.get("data_row") is not None:
        typed["data_row"] = json.dumps(row["data_row"])
    for name in BY_ID:
        if row.get(name):
            typed[name] = [{"id": i, "text": text} for i, text in row[name]]
    return typed


def _structs(per_token: list[list[list[float]]]) -> list[list[dict[str, float]]]:
    return [[{"id": i, "logprob": p} for i, p in pairs] for pairs in per_token]


def is_parquet(path: Path) -> bool:
    """Whether the file starts as Parquet files do. Raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None


def columns_of(path: Path) -> pa.Schema:
    """Names and types of the columns. Raises UserError."""
    with _reading(path):
        return pq.read_schema(path)


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows, numbered from 1, with alternatives as pairs again. Raises UserError."""
    number = 0
    with _reading(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=GROUP_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, _untyped(row)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, UnicodeDecodeError, pa.ArrowException) as error:
        raise UserError(
            f"is not a complete Parquet file: {one_line(error)}",
            where=str(path),
            kind=ErrorKind.BAD_DATA,
        ) from None


def _untyped(row: dict[str, Any]) -> dict[str, Any]:
    """Structs as the pairs of the JSON form, without what a row lacks of the file's columns.

    What has another form is left for the checks that follow.
    """
    row = {name: value for name, value in row.items() if value is not None}
    row = row | {name: [_pairs(pairs) for pairs in row[name]] for name in TOPK if row.get(name)}
    if isinstance(row.get("data_row"), str):
        row["data_row"] = _json(row["data_row"])
    return row | {name: _pairs(row[name]) for name in BY_ID if row.get(name)}


def _json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _pairs(items: Any) -> Any:
    if not isinstance(items, list):
        return items
    return [list(item.values()) if isinstance(item, dict) else item for item in items]
