"""Arrow's tables as the rows that JSON would have: no filled-in nulls, numbers as written."""

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from opd.data.rows import Row, Table, bad_data
from opd.errors import one_line

Convert = Callable[[Any], Any]


def python_rows(table: pa.Table) -> list[dict[str, Any]]:
    """The rows as dictionaries. Within a value, keys without a value are left out."""
    converters = {field.name: _converter(field.type) for field in table.schema}
    return [
        {name: _converted(converters[name], value) for name, value in row.items()}
        for row in table.to_pylist()
    ]


def _converted(convert: Convert | None, value: Any) -> Any:
    return value if convert is None or value is None else convert(value)


def _converter(kind: pa.DataType) -> Convert | None:
    """What turns a value of this type, as pyarrow gives it, into JSON's; None where it is so."""
    if pa.types.is_struct(kind):
        inner = {kind.field(i).name: _converter(kind.field(i).type) for i in range(kind.num_fields)}
        return lambda value: {k: _converted(inner[k], v) for k, v in value.items() if v is not None}
    if pa.types.is_map(kind):
        item = _converter(kind.item_type)
        return lambda pairs: {k: _converted(item, v) for k, v in pairs if v is not None}
    if hasattr(kind, "value_type"):  # lists of every kind, and dictionaries of values
        item = _converter(kind.value_type)
        if pa.types.is_dictionary(kind) or item is None:
            return item
        return lambda items: [_converted(item, v) for v in items]
    if pa.types.is_float16(kind) or pa.types.is_float32(kind):
        narrow = np.float16 if pa.types.is_float16(kind) else np.float32
        return lambda value: float(str(narrow(value)))  # 0.1, not 0.10000000149011612
    if getattr(kind, "extension_name", None) == "arrow.json":
        return lambda value: json.loads(value) if isinstance(value, str) else value
    return None


def parquet_table(name: str, paths: Sequence[Path], field: str) -> Table:
    """Reads the row groups that hold the rows asked for. Errors name the setting `field`."""
    try:
        files = [pq.ParquetFile(path) for path in paths]
    except (OSError, pa.ArrowException) as error:
        raise bad_data(field, f"{name} cannot be read: {one_line(error)}") from None
    groups = [(file, number) for file in files for number in range(file.metadata.num_row_groups)]
    sizes = (file.metadata.row_group(number).num_rows for file, number in groups)
    starts = list(accumulate(sizes, initial=0))  # and the end

    @lru_cache(maxsize=1)  # of a large group, a thousand rows at a time may be taken
    def group(at: int) -> pa.Table:
        file, number = groups[at]
        try:
            return file.read_row_group(number)
        except (OSError, pa.ArrowException) as error:
            raise bad_data(field, f"{name} cannot be read: {one_line(error)}") from None

    def take(indices: Sequence[int]) -> list[Row]:
        inside: dict[int, list[int]] = {}
        for i in sorted(set(indices)):
            inside.setdefault(bisect_right(starts, i) - 1, []).append(i)
        rows: dict[int, Any] = {}
        for at, chosen in inside.items():
            values = python_rows(_taken(group(at), [i - starts[at] for i in chosen]))
            rows |= dict(zip(chosen, values, strict=True))
        return [Row(rows[i], f"{name} row {i + 1}") for i in indices]

    return Table(name, tuple(files[0].schema_arrow.names), starts[-1], take)


def feather_table(name: str, path: Path, field: str) -> Table:
    """An Arrow file, or a stream, as a table in memory."""
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except pa.ArrowInvalid:
        table = _stream(name, path, field)
    except (OSError, pa.ArrowException) as error:
        raise bad_data(field, f"{name} cannot be read: {one_line(error)}") from None

    def take(indices: Sequence[int]) -> list[Row]:
        values = python_rows(_taken(table, list(indices)))
        return [Row(v, f"{name} row {i + 1}") for i, v in zip(indices, values, strict=True)]

    return Table(name, tuple(table.column_names), table.num_rows, take)


def _stream(name: str, path: Path, field: str) -> pa.Table:
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (OSError, pa.ArrowException) as error:
        raise bad_data(field, f"{name} cannot be read: {one_line(error)}") from None


def _taken(table: pa.Table, indices: list[int]) -> pa.Table:
    """These rows; string views, which pyarrow cannot take from, are sliced row by row."""
    try:
        return table.take(pa.array(indices, pa.int64()))
    except pa.ArrowNotImplementedError:
        return pa.concat_tables([table.slice(i, 1) for i in indices] or [table.slice(0, 0)])
