"""What a run is called after its recipe, decided when it is read: for runs of before, too."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import RowMapping

from opd.config.recipes import Core, is_bundled, recipe_label
from storage.schema import run

FIRST_VERSION = 1  # of name, notes and tags: nobody has edited them
PROMPTS = run.c.config["prompts"]["source"].as_string().label("prompts_source")


def recipe_names(row: RowMapping) -> dict[str, Any]:
    """`name`, `recipe_label` and `bundled` of a run's row, which has PROMPTS or its `config`.

    A name that was its recipe's and that nobody has edited says where the run is no longer one of
    that recipe. `bundled`: student, teacher and prompts are the demo's.
    """
    source = row["prompts_source"] if "prompts_source" in row else _source(row["config"])
    core = Core(row["student"], row["teacher"], source or "", row["objective"])
    label = recipe_label(row["recipe"], core)
    untouched = row["version"] == FIRST_VERSION and row["name"] == row["recipe"]
    return {
        "name": (label if untouched else row["name"]) or row["name"],
        "recipe_label": label,
        "bundled": is_bundled(core),
    }


def _source(config: Mapping[str, Any]) -> str:
    prompts = config.get("prompts")
    return str(prompts.get("source", "")) if isinstance(prompts, Mapping) else ""
