"""The branches of a rollout: completions that continue it from one of its tokens."""

import re
from typing import Any

from sqlalchemy import Engine, select

from opd.grading.outcome import is_right
from storage.engine import read
from storage.lookups import not_found, run_row
from storage.read.rollouts import CUT
from storage.schema import rollout as table

BRANCH = re.compile(r"(?P<parent>.+)-b-(?P<position>\d+)-[st]-\d+-[0-9a-f]{8}")
_FIELDS = (
    *("id", "step", "author", "sample", "tokens", "finish_reason", "temperature", "reward"),
    *("kl_sum", "kl_mean", "kl_max", "completion"),
)


def parent_of(rollout_id: str) -> tuple[str, int] | None:
    """The rollout that a branch left, and at which position; None where it is not a branch."""
    match = BRANCH.fullmatch(rollout_id)
    return (match["parent"], int(match["position"])) if match else None


def read_branches(engine: Engine, rollout_id: str) -> dict[str, Any]:
    """The branches that left a rollout, by position; each with its figures and `position`.

    Sums are over the tokens from the position on. {"items", "total", "parent": {"id", "position"}
    or None}: `parent` is what this rollout itself left. Raises "not found".
    """
    with read(engine) as connection:
        run = connection.scalar(select(table.c.run_id).where(table.c.id == rollout_id))
        if run is None:
            raise not_found(rollout_id)
        run_row(connection, run)
        rows = connection.execute(
            select(*(table.c[name] for name in _FIELDS)).where(
                table.c.run_id == run,
                table.c.kind == "branch",
                table.c.id.startswith(f"{rollout_id}-b-", autoescape=True),
            )
        ).mappings()
        items = [
            {
                **row,
                "right": is_right(row["reward"]),
                "completion": row["completion"][:CUT],
                "position": left[1],
            }
            for row in rows
            if (left := parent_of(row["id"])) and left[0] == rollout_id
        ]
    items.sort(key=lambda item: (item["position"], item["step"], item["author"], item["id"]))
    parent = parent_of(rollout_id)
    return {
        "items": items,
        "total": len(items),
        "parent": {"id": parent[0], "position": parent[1]} if parent else None,
    }
