"""The same rows from every text file; what cannot be read is named by line or row."""

import bz2
import gzip
import json
import lzma

import pytest

from opd.data.files import file_rows
from opd.errors import UserError

ROWS = [{"prompt": "a, b", "answer": "1"}, {"prompt": "naïve\n語", "answer": "2"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = 'prompt,answer\n"a, b",1\n"naïve\n語",2\n'


def read(path):
    return list(file_rows(path, "prompts.source"))


def refusal(path):
    with pytest.raises(UserError) as caught:
        read(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", LINES.encode()),
        ("a.jsonl", LINES.replace("\n", "\r\n").encode()),
        ("a.jsonl", LINES.encode("utf-8-sig")),
        ("a.jsonl", LINES.encode("utf-16")),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.jsonl", gzip.compress(LINES.encode(), mtime=0)),
        ("a.jsonl.bz2", bz2.compress(LINES.encode())),
        ("a.jsonl.xz", lzma.compress(LINES.encode())),
        ("a.json", LINES.encode()),
        ("a.json", json.dumps(ROWS).encode()),
        ("a.json", json.dumps(ROWS, indent=2).encode("utf-8-sig")),
        ("a.jsonl", json.dumps(ROWS).encode()),
        ("a.json", json.dumps({"data": ROWS}).encode()),
        ("a.json", json.dumps({"version": "1", "data": ROWS}, indent=1).encode()),
        ("a.csv", CSV.encode()),
        ("a.csv", CSV.encode("utf-8-sig")),
        ("a.csv", CSV.replace(",1", ";1").replace(",2", ";2").replace("t,a", "t;a").encode()),
        ("a.tsv", 'prompt\tanswer\na, b\t1\n"naïve\n語"\t2\n'.encode()),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
    ],
)
def test_one_set_of_rows_from_every_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert [dict(row.fields) for row in read(tmp_path / name)] == ROWS


def test_one_row_alone(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"prompt": "a", "data": [{"x": 1}]}, indent=2))
    assert [dict(r.fields) for r in read(tmp_path / "a.json")] == [
        {"prompt": "a", "data": [{"x": 1}]}
    ]
    (tmp_path / "empty.jsonl").write_text("\n\n")
    assert read(tmp_path / "empty.jsonl") == []


def test_rows_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(f"\n{LINES}")
    assert [r.where for r in read(tmp_path / "a.jsonl")] == [
        f"{tmp_path}/a.jsonl:{n}" for n in (2, 3)
    ]
    (tmp_path / "a.csv").write_text(CSV + "\nc,3\n")
    assert [r.where.rpartition(":")[2] for r in read(tmp_path / "a.csv")] == ["2", "3", "6"]
    (tmp_path / "a.json").write_text(json.dumps({"rows": ROWS}))
    assert read(tmp_path / "a.json")[1].where == f"{tmp_path}/a.json rows row 2"


def test_empty_values_of_csv_are_none(tmp_path):
    (tmp_path / "a.csv").write_text("prompt, answer\na,\nb,007\n")
    assert [dict(r.fields) for r in read(tmp_path / "a.csv")] == [
        {"prompt": "a", "answer": None},
        {"prompt": "b", "answer": "007"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", b'{"a" 1}\n{"a": 2}\n', "a.jsonl:1: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', "a.jsonl:2: must be a JSON object"),
        ("a.json", b'[{"a": 1}, 2]', "a.json row 2: must be a JSON object (got 2)"),
        ("a.json", b'[\n{"a": 1},\n{]', "a.json:3: not valid JSON"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd1234", "compressed with Zstandard"),
        ("a.xlsx", b"PK\x03\x04abcd", "ZIP archive or a spreadsheet"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-12], "cannot be read"),
        ("a.jsonl", b"\xff\x00\x01", "is not UTF-8 text"),
        ("a.csv", b"a,b\n1\n", "a.csv:2: has 1 values; the header has 2"),
        ("a.csv", b"a,a\n1,2\n", "column 'a' occurs more than once"),
        ("a.csv", b'a,b\n1,2\n1,"2\n', "a.csv:3: not valid CSV"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    assert message in refusal(tmp_path / name)


def test_long_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "x" * 4_000_001}) + '\n{"a": 1}\n')
    assert "a.jsonl:1: the line is longer than" in refusal(tmp_path / "a.jsonl")
    rows = [{"prompt": "x" * 3_000_000}] * 2
    (tmp_path / "a.json").write_text(json.dumps({"data": rows}))
    assert len(read(tmp_path / "a.json")) == 2
