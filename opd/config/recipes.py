"""Bundled recipes: named YAML configurations."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from opd.config.drafts.yaml_text import load_yaml
from opd.config.run import RunConfig, parse
from opd.config.wording import teacher_name
from opd.errors import UserError

DEMO = "demo"  # the bundled pair on the bundled problems


@dataclass(frozen=True)
class Recipe:
    name: str
    title: str
    description: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Core:
    """What makes a run one of its recipe: other steps, rates or counts leave it one."""

    student: str
    teacher: str  # as a list of runs calls it
    prompts: str
    objective: str

    @classmethod
    def of(cls, config: RunConfig) -> "Core":
        teacher = teacher_name(config.teacher)
        return cls(config.student.model, teacher, config.prompts.source, config.objective.name)


def recipe_label(name: str, core: Core) -> str:
    """What a run that was started from this recipe may be called after it: `demo`, or where its
    models, prompts or objective are others, `demo, changed`. Empty for a run without a recipe."""
    known = _cores().get(name)
    if not name or core == known:
        return name
    return f"{name}, changed" if known else f"{name}, not bundled"


def run_name(given: str, recipe_name: str, core: Core) -> str:
    """The name of a run that nobody has named: its recipe's, as far as it is one of it."""
    own = given.strip()
    label = recipe_label(recipe_name, core)
    return (label if own in ("", recipe_name) else own) or "run"


def is_bundled(core: Core) -> bool:
    """Whether student, teacher and prompts are those of the demo, whatever the objective."""
    demo = _cores()[DEMO]
    ours = (core.student, core.teacher, core.prompts)
    return ours == (demo.student, demo.teacher, demo.prompts)


@cache
def _cores() -> dict[str, Core]:
    return {r.name: Core.of(parse(r.config)) for r in recipes()}


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
