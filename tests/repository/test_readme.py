"""What the README says is there."""

import re
import subprocess
from pathlib import Path

import pytest

from opd.config.drafts.yaml_text import load_yaml
from opd.config.run import parse

ROOT = Path(__file__).parents[2]
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


def test_it_lists_every_document():
    docs = ROOT / "docs"
    paths = [*docs.glob("*.md"), *docs.glob("guide/*.md"), *docs.glob("formats/*.md")]
    documents = {str(path.relative_to(ROOT)) for path in paths}
    assert len(documents) > 15
    table = TEXT.partition("## Documents")[2].partition("##")[0]
    assert documents <= set(re.findall(r"^\| \[(.+?)\]\(\1\) \|", table, re.MULTILINE))


def test_the_coach_is_met_only_where_the_story_is_told():
    story, _, rest = TEXT.partition("\n## ")
    assert "coach" in story and "coach" not in rest.lower()


# Folders that need no phrase of their own: one says what they are, or they hold data alone.
WITHOUT_PHRASE = re.compile(
    r"app/static/(?!lib$|css$|rollout(/|$)).+|opd/(config|experiments)/.*files|opd/bundled/.+|"
    r"storage/migrations.*|tests/(app|opd|storage|bench|browser|flows)(/.*)?|bench/support|docs/.+"
)


def tree() -> dict[str, str]:
    """Folder → phrase, from the README's tree; indentation is depth."""
    (block,) = re.findall(r"```\n(app/ .*?)```", TEXT, re.DOTALL)
    folders: dict[str, str] = {}
    path: list[str] = []
    for line in block.splitlines():
        name, phrase = line.split(maxsplit=1)
        path = [*path[: (len(line) - len(line.lstrip())) // 2], name.rstrip("/")]
        folders["/".join(path)] = phrase
    return folders


def test_each_phrase_of_its_tree_has_its_folder():
    assert [folder for folder in tree() if not (ROOT / folder).is_dir()] == []


def test_each_folder_has_its_phrase():
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {str(parent) for file in files for parent in Path(file).parents} - {".", ".ci"}
    unnamed = {f for f in folders if f not in tree() and not WITHOUT_PHRASE.fullmatch(f)}
    unnamed |= {f for f in ("tests/flows", "tests/browser") if f not in tree()}
    assert unnamed == set()


def test_its_commands_exist():
    cli = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for command in set(re.findall(r"opd ([a-z]+) ", TEXT)):
        assert f"opd {command}" in cli


def test_every_target_of_the_makefile_can_be_read() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for target in [*phony.split(), ".venv-vllm/installed"]:
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
