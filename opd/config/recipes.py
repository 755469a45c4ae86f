"""Bundled recipes: named YAML configurations."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
    judges: Any  # what the teacher reads of its own, and the teachers that prompts are routed to
    held_out: Any  # which part of the data is trained on and which is held out
    suites: Any  # the data of further evaluations, by their names

    @classmethod
    def of(cls, config: RunConfig) -> "Core":
        name = teacher_name(config.teacher)
        stored = config.model_dump(mode="json")
        return cls.read((config.student.model, name, config.objective.name), stored)

    @classmethod
    def read(cls, names: tuple[str, str, str], config: Mapping[str, Any]) -> "Core":
        """Of student, teacher and objective as a list of runs calls them, and of `prompts`,
        `teacher` and `evaluation` of a configuration as it was stored, by any version."""
        student, teacher_called, objective = names
        prompts, teacher = _part(config, "prompts"), _part(config, "teacher")
        routes = _named(_part(teacher, "routes"), ("kind", "model", "url", *OWN_PROMPT))
        suites = _named(_part(_part(config, "evaluation"), "suites"), DATA)
        return cls(
            student,
            teacher_called,
            str(prompts.get("source") or ""),
            objective,
            (_values(teacher, OWN_PROMPT), routes and teacher.get("route_by"), routes),
            _values(prompts, (*DATA[1:], "eval_source", "eval_split")),
            suites,
        )


OWN_PROMPT = ("prompt", "system")
DATA = ("source", "subset", "split")


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def _values(section: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Those that are set: a version that had no such field stored none."""
    return {name: section[name] for name in names if section.get(name) is not None}


def _named(sections: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _values(_part(sections, name), names) for name in sections}


def recipe_label(name: str, core: Core) -> str:
    """What a run that was started from this recipe may be called after it: `demo`, or where its
    models, prompts, evaluation data or objective are others, `demo, changed`. Empty for a run
    without a recipe."""
    bundled = _cores().get(name)
    if not name or core == bundled:
        return name
    return f"{name}, changed" if bundled else f"{name}, not bundled"


def run_name(given: str, recipe_name: str, core: Core) -> str:
    """The name of a run that nobody has named: its recipe's, as far as it is one of it."""
    name = given.strip()
    label = recipe_label(recipe_name, core)
    return (label if name in ("", recipe_name) else name) or "run"


def is_bundled(core: Core) -> bool:
    """Whether student, teachers and prompts, with those held out, are the demo's, whatever the
    objective and further evaluations."""
    demo = _cores()[DEMO]
    return replace(core, objective=demo.objective, suites=demo.suites) == demo


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
