"""`opd data` for people and for scripts."""

import json
import sys
from pathlib import Path

import pytest

from app.cli.main import app


@pytest.fixture
def opd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    def run(*arguments: str, command: str = "data") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["opd", command, *arguments, "--data-dir", str(tmp_path)])
        with pytest.raises(SystemExit) as left:
            app()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_a_file_is_shown_with_its_form_and_its_problems(opd, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}\n'
        '{"conversations": [{"from": "narrator", "value": "a"}]}\n'
    )
    code, out, _ = opd(str(path))
    assert code == 1
    assert f"{path}: 2 rows, read as ShareGPT" in out
    assert "a.jsonl:2: message 1 is from 'narrator'" in out
    assert "  user: 'a'\n  completion: 'b'" in out
    code, out, _ = opd(str(path), "--json", "--rows", "0")
    seen = json.loads(out)
    assert (code, seen["forms"], seen["shown"]) == (1, {"ShareGPT": 1}, [])
    assert seen["problems"][0]["row"] == f"{path}:2"


def test_settings_and_what_cannot_be_read(opd, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,solution\na,1\n")
    code, _, err = opd(str(path))
    assert code == 2
    assert "prompts.columns.prompt" in err and "it has question, solution" in err
    code, out, _ = opd(str(path), "--set", "prompts.columns.prompt=question")
    assert code == 0
    assert "Columns that are not part of a prompt: solution (1)" in out
    assert "is made by the program" in opd("bundled")[2]


def test_prompts_as_both_models_will_read_them(opd, tmp_path):
    code, out, err = opd("demo", "--set", "teacher.prompt=49 {prompt}", command="prompts")
    assert code == 0, err
    assert "train: 2,048 prompts of bundled, read as text" in out
    assert "The longest of the first 2,000 has" in out and "; 0 too long" in out
    assert out.count("  student, bundled/student: ") == out.count("    '49 ") == 3
    code, out, _ = opd("demo", "--of", "held-out", "--count", "1", "--json", command="prompts")
    [prompt] = json.loads(out)["prompts"]
    assert (code, prompt["where"], prompt["verdict"]) == (0, "bundled, eval row 0", "kept")
    assert prompt["readers"][1]["same"] is True
    code, _, err = opd("demo", "--of", "suite", command="prompts")
    assert code == 2 and "there are train, held-out, probe" in err


def test_prompts_that_a_run_could_not_take(opd, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"prompt": "{n}"}}\n' for n in ("1 + 2", "3 + \\u001b[31m", "")))
    settings = ("--set", f"prompts.source={path}", "--set", "prompts.probe=0")
    code, out, _ = opd("demo", *settings, command="prompts")
    assert code == 1
    assert f"The run cannot start: {path}:3: prompt must be non-empty text" in out
    assert "\x1b" not in out
    assert ", 3 of them unknown" in out, "the bundled vocabulary has neither ESC nor brackets"
    code, out, _ = opd(str(path), "--model", "bundled/assistant", "--set", "prompts.chat=true")
    assert (code, "a.jsonl:1 (text, " in out, " tokens)" in out) == (1, True, True)
