"""Exported rollouts as Parquet: the JSON-lines fields with types, alternatives as structs."""

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 256
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
        ("prompt_tokens", pa.list_(pa.string())),
        ("completion_tokens", pa.list_(pa.string())),
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
    return row | {
        name: _structs(row[name]) for name in ("student_topk", "teacher_topk") if row.get(name)
    }


def _structs(per_token: list[list[list[float]]]) -> list[list[dict[str, float]]]:
    return [[{"id": i, "logprob": p} for i, p in pairs] for pairs in per_token]
