"""One name for one thing: classes across the project, and the word for the model that judges."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = ("*.py", "*.js", "*.md", "*.yaml")
# Where the story is told, and a recipe whose name is stored in runs.
COACH = re.compile(r"app/static/(tour/.+|runs/runs\.js)|opd/config/recipe_files/.*-coach-.*\.yaml")
# They say nothing of what a value is. Attributes and functions may be `own` or `_own`.
EMPTY = {"found", "known", "wanted", "asked", "told", "place", "own"}
PRODUCT = ("app/**/*.py", "opd/**/*.py", "storage/**/*.py", "bench/**/*.py", "opd_launcher.py")
KEPT = {
    ("app/api/files/sources.py", "place"),  # sent, in the address
    ("app/api/http/inputs.py", "asked"),  # sent
    ("opd/types.py", "asked"),  # stored
    ("storage/queue/jobs.py", "place"),  # stored, of an owner
    ("app/worker/owners/place.py", "Place"),
    *((f"app/worker/{name}.py", "place") for name in ("process", "recovery", "owners/standing")),
    *((f"tests/app/worker/{name}.py", "place") for name in ("test_process", "owners/test_place")),
}


def test_no_class_name_stands_twice() -> None:
    homes = defaultdict(list)
    for path, tree in _modules(*PRODUCT).items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                homes[node.name.lstrip("_")].append(path)
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


def test_names_say_what_a_value_is() -> None:
    empty = [
        f"{path}:{line}: {name}: name the value (rows, path, message, …)"
        for path, tree in (_modules(*PRODUCT) | _modules("tests/**/*.py")).items()
        for name, line in _bound(tree)
        if _is_empty(name) and (path, name) not in KEPT
    ]
    assert empty == []


def test_every_way_to_bind_a_name_is_seen() -> None:
    text = """
import os as found
class Wanted: place: str
class Other:
    def own(self, known, *, asked=1): self._told = 1
async def found(): pass
for told in known: pass
with open("x") as place, (wanted := other): pass
[0 for asked, *known in rows]
try: pass
except OSError as told: pass
match rows:
    case [own, *found]: pass
    case {"a": 1, **known}: pass
lambda wanted: wanted(told=found)
other.place = own.known
"""
    names = " ".join(sorted(name for name, _ in _bound(ast.parse(text)) if _is_empty(name)))
    assert names == (
        "Wanted _told asked asked found found found known known known own place place place told "
        "told wanted wanted"
    )


@cache
def _modules(*patterns: str) -> dict[str, ast.Module]:
    """By their paths."""
    return {
        str(path.relative_to(ROOT)): ast.parse(path.read_text(encoding="utf-8"))
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
    }


def _is_empty(name: str) -> bool:
    return name.strip("_").lower() in EMPTY


def _bound(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Each name that is bound, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=str(name)):
                yield name, node.lineno
            case ast.FunctionDef(name=str(name)) | ast.AsyncFunctionDef(name=str(name)):
                if name.strip("_") != "own":
                    yield name, node.lineno
            case ast.Name(id=str(name), ctx=ast.Store()) | ast.arg(arg=str(name)):
                yield name, node.lineno
            case ast.Attribute(attr=str(name), ctx=ast.Store()):
                if name.strip("_") != "own":
                    yield name, node.lineno
            case (
                ast.ExceptHandler(name=str(name))
                | ast.alias(asname=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.MatchMapping(rest=str(name))
            ):
                yield name, node.lineno
