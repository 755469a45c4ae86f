"""The changelog: its versions, and that what moved lies where it says."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_its_newest_version_is_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    versions = re.findall(r"^## \[(.+)\]$", TEXT, re.MULTILINE)
    assert versions[:2] == ["Unreleased", project["version"]]


def expanded(path: str) -> list[str]:
    """`a/{b,c}.py` → `a/b.py`, `a/c.py`."""
    match = re.search(r"\{(.+?)\}", path)
    if not match:
        return [path]
    return [path.replace(match[0], name) for name in match[1].split(",")]


def test_what_moved_lies_where_it_says() -> None:
    rows = re.findall(r"^\| (`(?:app|opd|storage)/.+?) \| (.+) \|$", TEXT, re.MULTILINE)
    paths = [p for _, now in rows for code in re.findall("`(.+?)`", now) for p in expanded(code)]
    assert len(rows) > 20 and len(paths) > 60
    assert [path for path in paths if not (ROOT / path).exists()] == []
    before = [p for old, _ in rows for code in re.findall("`(.+?)`", old) for p in expanded(code)]
    assert [path for path in before if path.endswith(".py") and (ROOT / path).exists()] == []
