"""Arrow's values as JSON would have them: no filled-in nulls, numbers as written."""

from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opd.data.arrow import parquet_table, python_rows


def only(values, kind):
    return [row["x"] for row in python_rows(pa.table({"x": pa.array(values, kind)}))]


def test_nulls_that_arrow_filled_in_are_left_out():
    calls = [{"function": {"name": "f", "arguments": {"city": "Rome"}}}]
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": calls}]
    other = [{"role": "user", "content": [{"type": "text", "text": "b"}]}]
    assert only([messages, None], None) == [messages, None]
    assert only([other], None) == [other]
    tools = [
        [{"name": "f", "parameters": {"a": {"type": "string"}}}],
        [{"name": "g", "parameters": {"b": {"type": "number", "minimum": 1}}}],
    ]
    assert only(tools, None) == tools


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.float32(), [0.1, None, 3.0]),
        (pa.float16(), [0.1, 2.0]),
        (pa.list_(pa.float32()), [[0.1, 0.7], []]),
        (pa.string_view(), ["a", None]),
        (pa.large_string(), ["a"]),
        (pa.list_(pa.string_view()), [["a", "b"]]),
        (pa.large_list(pa.int8()), [[1, 2]]),
        (pa.decimal128(5, 2), [Decimal("1.50")]),
        (pa.date32(), [date(2026, 1, 2)]),
        (pa.struct({"a": pa.float32()}), [{"a": 0.3}]),
    ],
)
def test_values_of_every_type(kind, values):
    assert only(values, kind) == values


def test_dictionaries_and_maps():
    encoded = pa.array(["a", "b", "a"]).dictionary_encode()
    assert [row["x"] for row in python_rows(pa.table({"x": encoded}))] == ["a", "b", "a"]
    assert only([[("k", 1), ("l", None)], []], pa.map_(pa.string(), pa.int32())) == [{"k": 1}, {}]


def test_string_views_in_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"x": pa.array(["a", "b", "c"], pa.string_view())}), path)
    table = parquet_table("a", [path], "prompts.source")
    assert [row.fields["x"] for row in table.take([2, 0])] == ["c", "a"]
    assert table.take([]) == []


def test_a_row_group_is_read_once_for_rows_taken_a_few_at_a_time(tmp_path):
    path = tmp_path / "a.parquet"
    rows = pa.table({"x": list(range(10))})
    with pq.ParquetWriter(path, rows.schema) as writer:
        for start, size in ((0, 4), (4, 0), (4, 6)):
            writer.write_table(rows.slice(start, size))
    table = parquet_table("a", [path, path], "prompts.source")
    assert table.count == 20
    taken = [13, 3, 4, 9, 10, 3, 19]
    assert [row.fields["x"] for row in table.take(taken)] == [i % 10 for i in taken]
    path.write_bytes(b"")
    assert [row.where for row in table.take([15, 14])] == ["a row 16", "a row 15"]
