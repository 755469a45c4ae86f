"""What lies below a root, and the many ways not to leave it."""

import os
import shutil
from pathlib import Path

import pytest

from app.sources import roots
from app.sources.roots import checked_roots, inside, leads_outside, opened
from opd.errors import UserError

UP = ("..", "../secret", "a/../../secret", "a/..", "./../secret", "a/b/../../../secret")
ODD = (
    *("/etc", "//etc", "a\0b", "\0", "~", "~root", "a/" * 65, "x" * 300, "%2e%2e/secret"),
    *("..%2fsecret", "..\\secret", "....//secret", "a/\u2025/secret", "\uff0e\uff0e/secret"),
    *(
        "file:///etc",
        "a/./../..",
        "/../etc",
        "nothing",
        "a/rows.jsonl/x",
        "\udcff",
        "..;/secret",
        "*",
    ),
)
HIDDEN = (".hidden", "a/.hidden", ".", ".hidden/rows.jsonl", "a/.hidden/rows.jsonl", "to-hidden")
LINKS = ("to-secret", "to-secret/rows.jsonl", "a/to-up", "to-root/etc", "circle", "chain", "gone")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with folders, hidden ones, and links of every kind; a secret beside it."""
    made = tmp_path / "root"
    for folder in (made / "a" / ".hidden", made / ".hidden", made / "a" / "b", tmp_path / "secret"):
        folder.mkdir(parents=True)
        (folder / "rows.jsonl").write_text("{}\n")
    (made / "a" / "rows.jsonl").write_text("{}\n")
    for name, target in {
        "to-secret": tmp_path / "secret",
        "to-root": Path("/"),
        "circle": made / "circle",
        "chain": made / "to-secret",
        "gone": made / "nowhere",
        "to-hidden": made / ".hidden",
        "fine": made / "a",
    }.items():
        (made / name).symlink_to(target)
    (made / "a" / "to-up").symlink_to("..")
    return made.resolve()


def test_what_lies_below(root: Path) -> None:
    assert inside(root, "") == inside(root, "./") == root
    assert inside(root, "a/b/") == root / "a" / "b"
    assert inside(root, "fine/rows.jsonl") == root / "a" / "rows.jsonl"
    assert inside(root, "a/to-up/fine") == root / "a", "a link up that stays inside is followed"


@pytest.mark.parametrize("relative", [*UP, *ODD, *(n for n in HIDDEN if n != "."), *LINKS[:2]])
def test_nothing_outside_and_nothing_hidden(root: Path, relative: str) -> None:
    with pytest.raises(UserError) as refused:
        inside(root, relative)
    assert str(refused.value) == "path: there is no such file or folder below this root"


@pytest.mark.parametrize("relative", ["to-root/etc", "circle", "chain", "gone", "a/to-up/.hidden"])
def test_links_that_lead_away_are_not_followed(root: Path, relative: str) -> None:
    with pytest.raises(UserError):
        inside(root, relative)


def test_without_the_check_of_links_they_lead_away(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_relative_to", lambda *_: True)
    monkeypatch.setattr(Path, "relative_to", lambda *_: Path())
    assert inside(root, "chain").name == "secret"


def test_a_link_swapped_in_is_not_opened(root: Path, tmp_path: Path) -> None:
    checked = inside(root, "a/b")
    with opened(checked) as descriptor:
        assert os.listdir(descriptor) == ["rows.jsonl"]
    shutil.rmtree(checked)
    checked.symlink_to(tmp_path / "secret")
    with pytest.raises(OSError), opened(checked):
        pass
    (root / "a").rename(root / "c")
    (root / "a").symlink_to(tmp_path)
    with pytest.raises(OSError), opened(root / "a" / "secret"):
        pass
    assert leads_outside(root, root) == "a" and leads_outside(root, root / "c") == "b"


def test_roots_are_checked_when_the_server_starts(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    assert checked_roots([str(link), str(root)], "--data-root") == (root,)
    for text in ("nowhere", str(root / "a" / "rows.jsonl"), "a\0b"):
        with pytest.raises(UserError, match="cannot be listed") as refused:
            checked_roots([text], "--model-root")
        assert repr(text) in str(refused.value)
    assert roots.NO_ROOTS.roots("model") == ()
