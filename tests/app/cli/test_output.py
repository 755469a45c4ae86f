"""Tables of the commands in narrow terminals."""

import pytest

from app.cli.output import table

HEADS = ("arm", "steps to the target", "generated tokens", "accuracy")
ROWS = [("On-policy distillation", "12 (9 to 15)", "1.25 M", "0.925 ± 0.012"), ("RL", "–", "", "x")]


def printed(capsys: pytest.CaptureFixture[str], heads=HEADS, rows=ROWS) -> str:
    table(heads, rows, right="steps to the target")
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 52, 48])
def test_words_stay_whole(monkeypatch, capsys, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    out = printed(capsys)
    assert max(map(len, out.splitlines())) <= width
    words = {word for row in (HEADS, *ROWS) for cell in row for word in cell.split()}
    assert words <= set(out.split())


def test_what_does_not_fit_side_by_side_is_a_paragraph_a_row(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    assert printed(capsys).splitlines()[:6] == [
        "",
        "On-policy distillation",
        "  steps to the target  12 (9 to 15)",
        "  generated tokens     1.25 M",
        "  accuracy             0.925 ± 0.012",
        "",
    ]


def test_a_table_without_rows_has_its_heads(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "generated tokens" in printed(capsys, rows=[])


def test_what_drives_a_terminal_is_a_mark(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert "\x1b" not in printed(capsys, ("a", "b"), [("\x1b[31mred", "\u202etxt")])
