"""What a run is called after its recipe, decided when it is read: for runs of before, too."""

from typing import Any

from sqlalchemy import RowMapping

from opd.config.recipes import Core, is_bundled, recipe_label
from storage.schema import run

FIRST_VERSION = 1  # of name, notes and tags: nobody has edited them
SECTIONS = ("prompts", "teacher", "evaluation")  # of a configuration, which its recipe's has too
CORE = [run.c.config[name].as_json().label(f"config_{name}") for name in SECTIONS]


def recipe_names(row: RowMapping) -> dict[str, Any]:
    """`name`, `recipe_label` and `bundled` of a run's row, which has CORE or its `config`.

    A name that was its recipe's and that nobody has edited says where the run is no longer one of
    that recipe. `bundled`: student, teachers and prompts are the demo's.
    """
    config = row["config"] if "config" in row else {n: row[f"config_{n}"] for n in SECTIONS}
    core = Core.read((row["student"], row["teacher"], row["objective"]), config)
    label = recipe_label(row["recipe"], core)
    untouched = row["version"] == FIRST_VERSION and row["name"] == row["recipe"]
    return {
        "name": (label if untouched else row["name"]) or row["name"],
        "recipe_label": label,
        "bundled": is_bundled(core),
    }
