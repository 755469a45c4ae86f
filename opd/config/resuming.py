"""Settings that may change when a run goes on: those that decide memory, device and servers."""

import re
from collections.abc import Sequence
from typing import Any

from opd.config.drafts.short_forms import with_overrides
from opd.config.run import RunConfig, parse
from opd.config.whole_run.resources import ResourcesConfig
from opd.errors import UserError

FIELDS = (
    *(
        "device",
        "devices",
        "sharding",
        "threads",
        "optimizer.micro_batch_tokens",
        "sampling.batch_size",
    ),
    *("optimizer.compile", "sampling.url", "sampling.key_variable"),
    *("student.gradient_checkpointing", "teacher.offload"),
    *(f"resources.{name}" for name in ResourcesConfig.model_fields),
    *("teacher.url", "teacher.key_variable", "teacher.timeout", "teacher.retries"),
)
_ROUTE = re.compile(r"^teacher\.routes\.[^.]+\.(offload|url|key_variable|timeout|retries)$")


def may_change(field: str) -> bool:
    """Whether a run may go on with another value: results then differ by rounding at most."""
    return field in FIELDS or _ROUTE.match(field) is not None


def with_changes(
    config: dict[str, Any], assignments: Sequence[str]
) -> tuple[RunConfig, list[dict[str, str]]]:
    """A run's stored configuration with `field=value` changed, and what changed, as {"field",
    "text"}. Raises UserError for what decides what a step computes."""
    for assignment in assignments:
        field = assignment.partition("=")[0].strip()
        if not may_change(field):
            raise UserError(
                "cannot change within a run; start another one, whose student may be this run's "
                f"(may change: {', '.join(FIELDS)})",
                where=f"--set {field}",
            )
    before, after = parse(config), parse(with_overrides(config, list(assignments)))
    old, new = (_flat(c.model_dump(mode="json")) for c in (before, after))
    changes = [
        {"field": field, "text": f"{_shown(old.get(field))} → {_shown(new.get(field))}"}
        for field in old | new
        if old.get(field) != new.get(field)
    ]
    return after, changes


def _shown(value: Any) -> str:
    return "empty" if value is None else str(value)


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
