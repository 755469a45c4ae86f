"""Tables for spreadsheets: no cell is run as a formula, and every text comes back."""

import csv
import io
import random

import pyarrow.parquet as pq
import pytest

from opd.interchange.spreadsheet import (
    FORMULA_STARTS,
    ROLLOUT_COLUMNS,
    csv_line,
    csv_lines,
    parquet_pieces,
)

HOSTILE = [
    "=1+1",
    '=HYPERLINK("http://evil.example","x")',
    "@SUM(A1)",
    "+1",
    "-1",
    "\t=1",
    "\r=1",
    " \n =1",
    "＝1+1",
    "'=1",
    "'",
    "''quoted",
    'a "quoted", text',
    "two\nlines\r\nthree\r",
    "; , \t |",
    "\u202egnp.exe",
    "é 漢字 🙂 \u0007",
    "",
]


def read_back(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def unquoted(cell: str) -> str:
    return cell.removeprefix("'")


def test_texts_come_back_and_none_begins_as_a_formula() -> None:
    rng = random.Random(5)
    characters = "=+-@'\"\t\r\n ,;a1é＝"
    texts = HOSTILE + ["".join(rng.choices(characters, k=rng.randint(1, 8))) for _ in range(2000)]
    for text in texts:
        ((before, cell, after),) = read_back(csv_line(["x", text, "y"]))
        assert (before, after, unquoted(cell)) == ("x", "y", text)
        assert not cell.startswith(FORMULA_STARTS) and not cell.lstrip().startswith(FORMULA_STARTS)


def test_numbers_stay_numbers() -> None:
    values = [-1, -0.1, 1e-30, True, None, ["a", "b"]]
    assert read_back(csv_line(values)) == [["-1", "-0.1", "1e-30", "True", "", "a, b"]]


def row(number: int) -> dict[str, object]:
    examples = {"string": HOSTILE[number % len(HOSTILE)], "int64": number, "double": -0.1 * number}
    return {name: examples.get(kind, number % 2 == 0) for name, kind in ROLLOUT_COLUMNS.items()}


@pytest.mark.parametrize("count", [0, 5, 1025])
def test_parquet_has_the_rows_with_their_types(count: int) -> None:
    pieces = list(parquet_pieces(row(n) for n in range(count)))
    assert len(pieces) == 1 + -(-count // 1024)
    table = pq.read_table(io.BytesIO(b"".join(pieces)))
    assert {f.name: str(f.type) for f in table.schema} == dict(ROLLOUT_COLUMNS)
    assert table.to_pylist() == [row(n) for n in range(count)]


def test_csv_has_the_same_columns() -> None:
    head, *rows = read_back("".join(csv_lines([row(2), row(0) | {"answer": None}])))
    assert head == list(ROLLOUT_COLUMNS)
    assert rows[0][head.index("tokens")] == "2" and rows[1][head.index("answer")] == ""
