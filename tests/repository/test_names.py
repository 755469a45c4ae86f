"""One name for one thing: classes across the project, and the word for the model that judges."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = ("*.py", "*.js", "*.md", "*.yaml")
# Where the story is told, and a recipe whose name is stored in runs.
COACH = re.compile(r"app/static/(tour/.+|runs/runs\.js)|opd/config/recipe_files/.*-coach-.*\.yaml")


def test_no_class_name_stands_twice() -> None:
    homes = defaultdict(list)
    for top in ("app", "opd", "storage", "bench"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    homes[node.name.lstrip("_")].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}
    assert len(homes) > 150


def test_the_judging_model_is_the_teacher() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for top in ("app", "opd", "storage", "bench", "docs")
        for pattern in TEXTS
        for path in (ROOT / top).rglob(pattern)
        if re.search(r"\bcoach", path.read_text(encoding="utf-8"), re.IGNORECASE)
        and not COACH.fullmatch(str(path.relative_to(ROOT)))
    ]
    assert wrong == []
