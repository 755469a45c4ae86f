"""Who judges a run's tokens, by its configuration."""

from collections.abc import Mapping
from typing import Any


def teachers_of(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The run's teachers as configured: {"route", "name", "prompt", "system"}, the first for all
    rows that no route takes; empty where nobody judges or the run is an import."""
    first = config.get("teacher") or {}
    named = {"": first, **(first.get("routes") or {})}
    return [
        {
            "route": route,
            "name": one.get("model") if one.get("kind") in ("model", "remote") else one.get("kind"),
            **{part: one.get(part) for part in ("prompt", "system")},
        }
        for route, one in named.items()
        if one.get("kind", "none") != "none"
    ]
