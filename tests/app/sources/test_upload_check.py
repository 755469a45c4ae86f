"""Files that can be read as rows, and those that cannot, with line and reason."""

import gzip
import json
import struct
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.sources import upload_check
from app.sources.upload_check import check, contents
from opd.errors import UserError

GOOD = b'{"prompt": "1 + 1 =", "answer": "2"}\n'
BAD: dict[str, tuple[bytes, str]] = {
    "empty.jsonl": (b"", "holds no prompts"),
    "blank.jsonl": (b"\n\n  \n", "holds no prompts"),
    "empty.csv": (b"", "holds no prompts"),
    "binary.jsonl": (bytes(range(256)) * 9, "is not UTF-8 text"),
    "weights.json": (struct.pack("<Q", 2) + b"{}" + b"\xff" * 9, "is not UTF-8 text"),
    "line.jsonl": (GOOD * 4 + b'{"prompt": \n' + GOOD, "line.jsonl:5"),
    "number.jsonl": (GOOD + b"7\n", "number.jsonl:2: must be a JSON object"),
    "array.json": (b'[{"prompt": "a"}, 3]', "row 2: must be a JSON object"),
    "cut.json": (b'[{"prompt": "a"}, {"pro', "not valid JSON"),
    "deep.jsonl": (GOOD + b"[" * 100_000 + b"\n", "deep.jsonl:2: not valid JSON"),
    "columns.csv": (b"prompt,answer\na,b\nc\n", "columns.csv:3: has 1 values; the header has 2"),
    "twice.csv": (b"prompt,prompt\na,b\n", "twice.csv:1: column 'prompt' occurs more than once"),
    "quote.csv": (b'prompt,answer\n"a,b\n', "not valid CSV"),
    "archive.jsonl": (b"PK\x03\x04" + b"\0" * 30, "is a ZIP archive"),
    "zstandard.jsonl": (b"\x28\xb5\x2f\xfd" + b"\0" * 30, "is compressed with Zstandard"),
    "cut.jsonl.gz": (gzip.compress(GOOD * 500)[:40], "cannot be read"),
    "rubbish.jsonl.gz": (b"\x1f\x8b" + b"\0" * 50, "cannot be read"),
    "rubbish.parquet": (b"PAR1" + b"\0" * 50, "cannot be read"),
    "named.parquet": (GOOD, "cannot be read"),
    "rubbish.arrow": (b"ARROW1" + b"\0" * 50, "cannot be read"),
    "page.jsonl": (b"<!doctype html><script>alert(1)</script>", "not valid JSON"),
    "pickle.jsonl": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94", "is not UTF-8 text"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read(name: str, tmp_path: Path) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        contents(tmp_path / name)
    assert message in str(refused.value)


def test_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD * 3)
    (tmp_path / "rows.csv").write_bytes(b"question;answer\na;b\n")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(GOOD * 2))
    pq.write_table(pa.table({"prompt": ["a", "b"]}), tmp_path / "rows.parquet")
    uploads = {path.name: contents(path) for path in tmp_path.iterdir()}
    assert {name: one.rows for name, one in uploads.items()} == {
        **{"rows.jsonl": 3, "rows.csv": 1, "rows.jsonl.gz": 2, "rows.parquet": 2}
    }
    assert uploads["rows.jsonl"].form == "text" and not uploads["rows.jsonl"].note
    assert not uploads["rows.parquet"].note


def test_rows_that_need_other_columns_are_kept_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("problem,solution\n1 + 1,2\n")
    assert "has no column 'prompt'" in contents(tmp_path / "a.csv").note
    (tmp_path / "b.jsonl").write_text('{"prompt": "a"}\n{"prompt": 3}\n')
    assert "1 of the first 2 rows cannot be used" in contents(tmp_path / "b.jsonl").note


def test_the_process_that_reads_says_the_same(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "line.jsonl"
    good.write_bytes(GOOD)
    bad.write_bytes(BAD["line.jsonl"][0])
    assert check(good) == contents(good)
    with pytest.raises(UserError, match=r"line\.jsonl:5: not valid JSON"):
        check(bad)


def test_another_app_where_the_server_was_started_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('another app')")
    (tmp_path / "good.jsonl").write_bytes(GOOD)
    monkeypatch.chdir(tmp_path)
    assert check(tmp_path / "good.jsonl").rows == 1


def test_what_takes_too_long_or_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow.jsonl"
    slow.write_bytes(GOOD)
    with pytest.raises(UserError, match=r"takes longer than 0\.01 seconds"):
        check(slow, seconds=0.01)

    def full(_: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(upload_check, "contents", full)
    monkeypatch.setattr(upload_check.resource, "setrlimit", lambda *_: None)
    assert "GB of memory" in upload_check.checked(slow)["error"]


def test_a_bomb_meets_the_limit_of_memory(tmp_path: Path) -> None:
    """Blanks that take a thousandth of their size packed: one line that no memory would hold."""
    bomb = tmp_path / "bomb.jsonl.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        for _ in range(40):
            file.write(b'{"prompt": "' if file.tell() == 0 else b" " * 10_000_000)
    script = (
        "import sys, json; from app.sources import upload_check as u; from pathlib import Path; "
        "u.MOST_MEMORY = 300_000_000; print(json.dumps(u.checked(Path(sys.argv[1]))))"
    )
    done = upload_check.subprocess.run(
        [upload_check.sys.executable, "-c", script, str(bomb)], capture_output=True, check=False
    )
    assert "memory to read" in json.loads(done.stdout)["error"]
