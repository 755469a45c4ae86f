"""Fields of a rollout's row that stand there only where there is something to say."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from opd.config.names import checked_note
from opd.errors import UserError
from opd.types import Mark, Rollout

Fail = Callable[[str, str], NoReturn]  # with a field and its problem


def optional_fields(rollout: Rollout) -> dict[str, Any]:
    names = ("teacher_end", "teacher", "teacher_prompt", "answer", "staleness")
    fields: dict[str, Any] = {"author": rollout.author} if rollout.author != "student" else {}
    fields |= {n: value for n in names if (value := getattr(rollout, n)) is not None}
    if rollout.data_row is not None:
        fields["data_row"] = dict(rollout.data_row)
    if rollout.marks:
        fields["marks"] = [{"position": one.position, "note": one.note} for one in rollout.marks]
    return fields


def data_row_of(row: Mapping[str, Any], fail: Fail) -> dict[str, Any] | None:
    """The row of data that the prompt is of; calls `fail` for what cannot be one."""
    value = row.get("data_row")
    if value is None:
        return None
    if not isinstance(value, dict):
        fail("data_row", f"must be an object (got {shown(value)})")
    try:
        json.dumps(value)
    except RecursionError:
        fail("data_row", "is nested too deeply")
    return value


def marks_of(row: Mapping[str, Any], tokens: int, fail: Fail) -> list[Mark]:
    """`marks`: [{"position", "note"}], at most one on each token and one on the whole."""
    value = row.get("marks")
    if value is None:
        return []
    if not isinstance(value, list):
        fail("marks", f"must be a list (got {shown(value)})")
    marks: dict[int | None, Mark] = {}
    for i, item in enumerate(value):
        field = f"marks[{i}]"
        if not isinstance(item, dict) or not isinstance(item.get("note") or "", str):
            fail(field, f'must be {{"position", "note"}} (got {shown(item)})')
        at = item.get("position")
        if at is not None and not (type(at) is int and 0 <= at < tokens):
            limit = f"null or 0 to {tokens - 1}" if tokens else "null: there are no tokens"
            fail(f"{field}.position", f"must be {limit} (got {shown(at)})")
        if at in marks:
            fail(f"{field}.position", f"has a mark already (got {shown(at)})")
        marks[at] = Mark(at, _note(item.get("note") or "", f"{field}.note", fail))
    return list(marks.values())


def _note(text: str, field: str, fail: Fail) -> str:
    try:
        return checked_note(text, where=field)
    except UserError as error:
        fail(field, error.message)


def shown(value: Any) -> str:
    """A value as errors quote it: short."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
