"""`opd doctor` as scripts and people call it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli import checking
from app.cli.main import app
from storage.databases import sqlite
from tests.support.experiment_definition import data

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def opd(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process: exit code, standard output, standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["opd", "doctor", *arguments])
        with pytest.raises(SystemExit) as left:
            app()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), out, err

    return run


def test_findings_for_scripts(opd: Run) -> None:
    code, out, _ = opd("demo", "--static", "--json")
    report = json.loads(out.splitlines()[-1])
    assert code == 0
    assert set(report) == {"ok", "findings", "memory"}
    assert report["ok"] is True
    assert {f["severity"] for f in report["findings"]} == {"ok"}
    assert report["memory"]["device"] > 0


def test_findings_for_people_with_the_memory_table(opd: Run) -> None:
    code, out, _ = opd("demo", "--static", "--set", "optimizer.learning_rate=0.5")
    assert code == 0, "a warning is no error"
    warnings, _, rest = out.partition("Passed")
    assert "Warnings" in warnings and "→ Set optimizer.learning_rate" in warnings
    assert "student's weights" in rest and "total at the peak" in rest


def test_an_error_finding_is_exit_code_1(opd: Run, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("sampling: {max_new_tokens: 512}\n")
    code, out, _ = opd(str(path), "--static", "--json")
    assert code == 1
    report = json.loads(out.splitlines()[-1])
    assert report["ok"] is False and report["findings"][0]["code"] == "prompts-refused"
    assert opd(str(path), "--static")[1].lstrip().startswith("Errors")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["no-such-recipe"], "no-such-recipe: no recipe, experiment or file of this name"),
        (["qwen3-small-student", "--set", "stepps=3"], "did you mean steps"),
        (["demo", "--set", "steps=0"], "steps"),
        (["demo", "--set", "student.model=/no/such/folder"], "student.model"),
    ],
)
def test_bad_input_is_exit_code_2_with_one_line(opd: Run, arguments: list[str], named: str) -> None:
    code, out, err = opd(*arguments)
    assert code == 2 and out == ""
    assert err.startswith("Error: ") and named in err and len(err.splitlines()) == 1


def test_the_whole_of_it_in_a_process_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.cli.main", "doctor", "demo", "--json"]
    done = subprocess.run(
        [*command, "--data-dir", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert {"zero-kl", "agreement", "time"} < {f["code"] for f in report["findings"]}
    assert "the student answers 8 prompts" in done.stderr
    assert not list(tmp_path.iterdir()), "it makes no database"


def test_hostile_text_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"severity": "error", "title": "\x1b[2J", "text": "a\x07", "advice": "\u202e"}
    checking._show({"findings": [finding], "memory": None})
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "\u202e" not in out


def test_an_experiment_is_checked_arm_by_arm(opd: Run) -> None:
    code, out, err = opd("qwen3-small-student", "--json")
    report = json.loads(out.splitlines()[-1])
    assert code == 0 and "RL (GRPO) …" in err
    assert set(report) == {"ok", "arms", "memory", "full", "quick", "assumed"}
    assert [a["name"] for a in report["arms"]] == ["opd", "sft", "rl"]
    assert report["full"]["hours"] > report["quick"]["hours"] > 0
    shorter = json.loads(opd("qwen3-small-student", "--json", "--set", "steps=8")[1])
    assert shorter["full"]["hours"] < report["full"]["hours"]


def test_an_experiment_for_people(opd: Run) -> None:
    code, out, _ = opd("qwen3-small-student")
    assert code == 0
    assert "Qwen/Qwen3-0.6B is not downloaded yet [all arms]" in out
    assert "Qwen/Qwen3-4B is not downloaded yet [OPD, SFT on the teacher's answers]" in out
    assert "Full: 18 runs, up to" in out and "Assumed: a GPU of 165 TFLOP/s" in out


def test_a_file_of_an_experiment_with_an_error_in_one_arm(opd: Run, tmp_path: Path) -> None:
    made = data(minutes={"quick": 3})
    made["arms"]["rl"]["config"]["sampling"] = {"max_new_tokens": 512}
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(made))
    code, out, _ = opd(str(path))
    assert code == 1
    assert out.lstrip().startswith("Errors") and "The prompts cannot be used [RL]" in out
    assert "Full: 8 runs\n" in out and "Quick: 2 runs, 3 min according to its file" in out


def test_a_sqlite_that_damages_databases_is_named(
    opd: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "SAFE_SQLITE", (99, 0, 0))
    code, _, err = opd("demo", "--static", "--json")
    assert code == 0
    assert "Warning: SQLite " in err and "pip install pysqlite3" in err
    monkeypatch.setattr(sqlite, "SAFE_SQLITE", (3, 0, 0))
    assert "Warning" not in opd("demo", "--static", "--json")[2]
