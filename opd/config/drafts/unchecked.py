"""Configurations that may hold mistakes, as a form shows them: plain data, not validated."""

import math
from typing import Any

import yaml

from opd.config.drafts.short_forms import with_long_forms
from opd.config.run import parse

Data = dict[str, Any]
MAX_INTEGER = 2**63 - 1  # of JSON as it is sent


def with_defaults(data: Data) -> Data:
    """Every field, as given where it is given. What stands in a section's place and is none is left
    out, as a form cannot show it; unknown fields stay."""
    whole: Data = _over(parse({}).model_dump(mode="json"), _plain(with_long_forms(data)))
    return whole


def as_yaml(data: Data) -> str:
    """YAML of what differs from the defaults, mistakes included."""
    left = _differing(_plain(with_long_forms(data)), parse({}).model_dump(mode="json"))
    return yaml.safe_dump(left, sort_keys=False, allow_unicode=True) if left else "{}\n"


def _over(under: Any, over: Any) -> Any:
    if not isinstance(under, dict) or not under:
        return over
    if not isinstance(over, dict):
        return under
    return {**under, **{k: _over(under[k], v) if k in under else v for k, v in over.items()}}


def _differing(data: Any, defaults: Any) -> Any:
    if not isinstance(data, dict) or not isinstance(defaults, dict):
        return data
    parts = {k: _differing(v, defaults.get(k)) for k, v in data.items()}
    return {k: v for k, v in parts.items() if k not in defaults or not _same(v, defaults[k])}


def _same(value: Any, default: Any) -> bool:
    """1 is not true, but 1.0, which a browser sends as 1; an empty section is its default."""
    if isinstance(default, dict) and value == {}:
        return True
    return bool(value == default) and isinstance(value, bool) == isinstance(default, bool)


def _plain(value: Any) -> Any:
    """What JSON can carry: dates, sets and bytes of YAML as text."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)
