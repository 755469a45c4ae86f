"""Bundled recipes: named YAML configurations."""

from dataclasses import dataclass
from importlib import resources
from typing import Any

from opd.config.run import load_yaml
from opd.errors import UserError


@dataclass(frozen=True)
class Recipe:
    name: str
    title: str
    description: str
    config: dict[str, Any]


def recipes() -> list[Recipe]:
    """All recipes by name, the bundled pair's first."""
    files = resources.files("opd.config").joinpath("recipe_files").iterdir()
    return [
        _read(f.name.removesuffix(".yaml"), f.read_text(encoding="utf-8"))
        for f in sorted(files, key=lambda f: (f.name != "demo.yaml", f.name))
        if f.name.endswith(".yaml")
    ]


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UserError that lists all of them."""
    by_name = {r.name: r for r in recipes()}
    if name not in by_name:
        raise UserError(f"no recipe {name!r}; recipes: {', '.join(by_name)}", where="recipe")
    return by_name[name]


def _read(name: str, text: str) -> Recipe:
    """The first comment line is the title, the comment lines after it the description."""
    comments = [line.removeprefix("#").strip() for line in text.splitlines() if line[:1] == "#"]
    return Recipe(name, comments[0], " ".join(comments[1:]), load_yaml(text, where=name))
