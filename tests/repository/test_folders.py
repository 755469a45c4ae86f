"""Folders stay small, and a test is found by the name of what it tests."""

import re
import subprocess
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_FILES = 15  # of one kind in one folder
# Pictures, results and migrations grow with the product and are not looked through.
UNCOUNTED = re.compile(r"docs/(pictures|results)(/.*)?|storage/migrations/versions")
MIRRORED = re.compile(r"tests/((?:app|opd|storage|bench)/(?:.+/)?)test_(\w+)\.py")


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_folder_has_too_many_files_of_one_kind() -> None:
    counts = Counter(
        (str(path.parent), path.suffix)
        for path in tracked()
        if not UNCOUNTED.fullmatch(str(path.parent))
    )
    assert {where: n for where, n in counts.items() if n > MOST_FILES} == {}
    assert len(counts) > 50


def test_every_test_stands_for_a_module_or_a_folder() -> None:
    tests = [match for path in tracked() if (match := MIRRORED.fullmatch(str(path)))]
    sources = {match[0]: ROOT / match[1] / match[2] for match in tests}
    wrong = [
        test
        for test, source in sources.items()
        if not source.is_dir() and not source.with_suffix(".py").is_file()
    ]
    assert wrong == []
    assert len(tests) > 70


def test_every_test_lies_in_a_known_folder() -> None:
    tops = {path.parts[1] for path in tracked() if path.parts[0] == "tests" and len(path.parts) > 2}
    assert tops == {
        *("app", "opd", "storage", "bench"),
        *("flows", "browser", "javascript", "repository", "support"),
    }
