"""What is sent to every parameter of every endpoint and tool, and what no reply may hold."""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

HOSTILE: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**30, 1.5, float("nan"), "", " ", "x" * 100_000),
    *("../../token", "run-a/../../health", "..%2f..%2ftoken", "/etc/passwd", "file:///etc/passwd"),
    *("<img src=x onerror=alert(1)>", "'; DROP TABLE runs; --", "{{7*7}}", "\x00\x1b[2J\r\nx: y"),
    *("\u202eevil", "run-none", "roll-none"),
    *([], {}, [[]], [{"a": 1}], {"$ref": "#"}, [None] * 2000),
)
TRACES = ("Traceback", "object has no attribute", "NoneType", "site-packages", "sqlite", "root:")
FIELD = re.compile(
    r"(^|; |give (either )?)[\w.-]+(: \S| or )"
)  # the one that is wrong, not always this one
Call = tuple[str, str, dict[str, Any]]  # endpoint, hostile parameter, arguments


def hostile_calls(
    endpoints: Mapping[str, list[str]], run_id: str, rollout_id: str
) -> Iterator[Call]:
    """Each parameter of each endpoint in turn with each hostile value, the others as they should
    be, of calls that change nothing."""
    good = {
        **{"run": run_id, "rollout": rollout_id, "recipe": "none", "wait": 0},
        **{"position": 0, "name": run_id, "id": "q-none", "limit": 1},
    }
    for name, takes in sorted(endpoints.items()):
        for parameter, value in itertools.product(takes, HOSTILE):
            yield (
                name,
                parameter,
                {k: v for k, v in good.items() if k in takes} | {parameter: value},
            )


def fault_of(parameter: str, value: Any, text: str) -> str | None:
    """What is wrong with a refusal: no sentence, a trace, or nothing that says what was wrong."""
    if not text.strip() or len(text) > 60_000:
        return "no sentence"
    if trace := next((trace for trace in TRACES if trace in text), None):
        return trace
    named = parameter in text or FIELD.search(text)
    quoted = isinstance(value, str) and value.strip()[:20] in text
    return None if named or quoted else "neither field nor value is named"
