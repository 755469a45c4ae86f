"""What the README says is there."""

import re
from pathlib import Path

import pytest

from opd.config import load_yaml, parse

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_example_is_a_valid_configuration():
    (block,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert parse(load_yaml(block)).steps == 100


def test_its_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make (\w+)", TEXT)) <= targets | {"it"}


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)]+)\)", TEXT))
def test_its_links_and_pictures_exist(link):
    assert (ROOT / link).is_file()


def test_its_tree_names_every_folder():
    (tree,) = re.findall(r"```\n(app/ .*?)```", TEXT, re.DOTALL)
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    assert all((ROOT / name).is_dir() for name in named)
    assert {"app", "opd", "storage", "tests", "bench", "docs"} <= named


def test_its_commands_exist():
    cli = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in set(re.findall(r"opd ([a-z]+) ", TEXT)):
        assert f"opd {command}" in cli
