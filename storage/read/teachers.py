"""Who judges a run's tokens, by its configuration and its rollouts."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, select

from storage.schema import rollout

MOST = 100  # teachers of an import that are listed


def teachers_of(config: Mapping[str, Any], source: str = "train") -> list[dict[str, Any]]:
    """The run's teachers as configured: {"path", "route", "name", "prompt", "system"}, the first
    for all rows that no route takes; empty where nobody judges or the run is an import."""
    first = config.get("teacher") or {}
    named = {"": first, **(first.get("routes") or {})}
    return [
        {
            "path": f"teacher.routes.{route}" if route else "teacher",
            "route": route,
            "name": one.get("model") if one.get("kind") in ("model", "remote") else one.get("kind"),
            **{part: one.get(part) for part in ("prompt", "system")},
        }
        for route, one in named.items()
        if source != "import" and one.get("kind", "none") != "none"
    ]


def teacher_names(config: Mapping[str, Any], source: str) -> dict[str, str]:
    """By the path of its section, a teacher's name for readers without the run: behind its route,
    where it has one. Empty for an import, whose rollouts name their teachers themselves."""
    return {
        t["path"]: f"{t['route']}: {t['name']}" if t["route"] else str(t["name"])
        for t in teachers_of(config, source)
    }


def judges(connection: Connection, run: RowMapping) -> list[dict[str, Any]]:
    """By whom the run's rollouts can be filtered: {"path", "name"}, none where fewer than two
    have judged or are configured. `run` is a row of a run."""
    if run["source"] != "import":
        named = teacher_names(run["config"], run["source"])
    else:
        column = rollout.c.teacher
        names = connection.scalars(
            select(column)
            .where(rollout.c.run_id == run["id"], column.is_not(None))
            .distinct()
            .order_by(column)
            .limit(MOST)
        )
        named = {name: name for name in names}
    teachers = [{"path": path, "name": name} for path, name in named.items()]
    return teachers if len(teachers) > 1 else []
