"""Rollouts as lists, and one with all that its page says about it."""

import hashlib
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, Engine, Select, func, or_, select

from opd.errors import UserError
from opd.grading.outcome import RIGHT_ABOVE, is_right
from storage import packing
from storage.engine import read
from storage.lookups import (
    fingerprint,
    page_limit,
    page_offset,
    rollout_row,
    run_fingerprint,
    run_row,
)
from storage.marks.listing import counted_marks, plain_marks
from storage.read.extracted import StoredCompletion, read_extractions
from storage.read.teachers import judges, teachers_of
from storage.schema import mark, prompt, token_record
from storage.schema import rollout as table

CUT = 400  # characters of a text in a list
CHECKED_BYTES = 16 * 2**20  # a page checks its records up to here; beyond it, opening one does
SORTABLE = (
    *("kl_sum", "kl_mean", "kl_max", "log_ratio_sum"),
    *("tokens", "reward", "step"),
)
_FIELDS = (
    *("id", "run_id", "step", "kind", "group", "sample", "tokens", "kl_sum", "kl_mean", "kl_max"),
    *("log_ratio_sum", "student_logprob_sum", "reward", "finish_reason", "temperature", "bytes"),
    *("author", "teacher_end", "teacher", "staleness"),
)
ABSENT = {
    "student_topk": "The student's alternatives were not stored (records.top_k is 0).",
    "teacher_topk": "The teacher's alternatives were not stored (records.top_k is 0).",
    "advantages": "This objective has no advantages: it differentiates the divergence itself.",
    "teacher_logprobs": "No teacher scored these tokens: the objective needs none, or they were "
    "imported; `opd score` can add this.",
    "reverse_kl": "Needs the teacher's whole distribution, which was not available; `opd score` "
    "can add this.",
    "sampler_logprobs": "The sampler's log-probabilities were not stored.",
    "mask": "No loss mask was stored; every token counts.",
}


@dataclass(frozen=True)
class RolloutFilter:
    """Which rollouts of a run; None or empty: all."""

    step: int | None = None
    min_step: int | None = None
    max_step: int | None = None
    kind: str | None = None
    finish_reason: str | None = None
    correct: bool | None = None
    teacher: str | None = None  # as stored
    min_kl: float | None = None  # of kl_mean
    min_kl_max: float | None = None
    min_tokens: int | None = None
    max_tokens: int | None = None
    text: str = ""
    marked: bool | None = None

    def conditions(self, run_id: str) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = [table.c.run_id == run_id]
        for name in ("step", "kind"):
            if (value := getattr(self, name)) is not None:
                conditions.append(table.c[name] == value)
        conditions += outcome(self.finish_reason, self.correct, self.teacher)
        lower = {
            **{"step": self.min_step, "tokens": self.min_tokens},
            **{"kl_mean": self.min_kl, "kl_max": self.min_kl_max},
        }
        conditions += [table.c[name] >= value for name, value in lower.items() if value is not None]
        for name, most in (("step", self.max_step), ("tokens", self.max_tokens)):
            if most is not None:
                conditions.append(table.c[name] <= most)
        if self.marked is not None:
            ids = select(mark.c.rollout_id).where(mark.c.run_id == run_id)
            conditions.append(table.c.id.in_(ids) if self.marked else table.c.id.not_in(ids))
        if self.text:
            in_prompts = select(prompt.c.id).where(
                prompt.c.run_id == run_id, prompt.c.text.icontains(self.text, autoescape=True)
            )
            in_completion = table.c.completion.icontains(self.text, autoescape=True)
            conditions.append(or_(in_completion, table.c.prompt_id.in_(in_prompts)))
        return conditions


def outcome(
    finish_reason: str | None, correct: bool | None, teacher: str | None
) -> list[ColumnElement[bool]]:
    """How a rollout ended, whether it was right and who judged it; None (or "" for a teacher):
    either way."""
    conditions: list[ColumnElement[bool]] = []
    if finish_reason is not None:
        conditions.append(table.c.finish_reason == finish_reason)
    if correct is not None:
        conditions.append(
            table.c.reward > RIGHT_ABOVE if correct else table.c.reward <= RIGHT_ABOVE
        )
    if teacher:
        conditions.append(table.c.teacher == teacher)
    return conditions


def read_rollouts(
    engine: Engine,
    run_id: str,
    *,
    sort: str = "-kl_sum",
    offset: int = 0,
    limit: int = 50,
    **filters: Any,
) -> dict[str, Any]:
    """A page of a run's rollouts; `filters` are the fields of RolloutFilter.

    `sort` is one of SORTABLE, descending with "-" before it; what lacks the value comes last.
    `damaged` is None where the page was too large to check; `teachers` are those to filter by.
    """
    where = RolloutFilter(**filters).conditions(run_id)
    order = (ordering(sort), table.c.id)
    ids = select(table.c.id).where(*where).order_by(*order)
    chosen = ids.limit(page_limit(limit)).offset(page_offset(offset)).subquery()
    page = (  # what is not in the order's index is read of these only
        select(*(table.c[name] for name in _FIELDS), table.c.completion)
        .add_columns(table.c.prompt_id, prompt.c.text, prompt.c.answer)
        .join(chosen, chosen.c.id == table.c.id)
        .join(prompt, prompt.c.id == table.c.prompt_id)
        .order_by(*order)
    )
    with read(engine) as connection:
        run = run_row(connection, run_id)
        total = connection.scalar(select(func.count()).select_from(table).where(*where))
        rows = connection.execute(page).mappings().all()
        whole = _checked(connection, {row["id"]: row["bytes"] for row in rows})
        graded = {
            row["id"]: StoredCompletion(row["completion"], whole.get(row["id"])) for row in rows
        }
        extracted = read_extractions(connection, run["config"], run_fingerprint(run), graded)
        teachers = judges(connection, run)
        marks = counted_marks(connection, list(graded))
    items = [
        {
            **{name: row[name] for name in _FIELDS},
            "same": _digest(row["prompt_id"], whole.get(row["id"])),
            "right": is_right(row["reward"]),
            "prompt": row["text"][:CUT],
            "completion": row["completion"][:CUT],
            "answer": _cut(row["answer"]),
            "extracted": _cut(extracted[row["id"]].text),
            "extraction_note": extracted[row["id"]].note,
            "damaged": whole[row["id"]] is None if row["id"] in whole else None,
            "marked": marks.get(row["id"], 0),
        }
        for row in rows
    ]
    return {"items": items, "total": total or 0, "teachers": teachers}


def read_rollout(engine: Engine, rollout_id: str) -> dict[str, Any]:
    """All about one rollout but its tokens: texts, sums, run, and which columns it has."""
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
        record = record_row(connection, rollout_id)
        problem = ""
        arrays: dict[str, Any] = {}
        try:
            arrays = packing.unpack(rollout_id, record)
        except packing.DamagedRecord as error:
            problem = error.message
        graded = {rollout_id: StoredCompletion(row["completion"], arrays.get("completion_ids"))}
        extracted = read_extractions(connection, row["run_config"], fingerprint(row), graded)
        marks = plain_marks(connection, rollout_id, row["completion"])
    alternatives = arrays.get("teacher_topk_ids", arrays.get("student_topk_ids"))
    columns = _column_names(arrays)
    return {
        **{name: row[name] for name in _FIELDS},
        "right": is_right(row["reward"]),
        **{name: row[name] for name in ("prompt", "completion", "answer", "run_name")},
        "grader": (row["run_config"].get("prompts") or {}).get("grader"),
        "extracted": extracted[rollout_id].text,
        "extraction_note": extracted[rollout_id].note,
        "teachers": teachers_of(row["run_config"], row["run_source"]),
        "teacher_prompt": row["teacher_prompt"],
        "prompt_tokens": len(row["prompt_ids"]) // packing.PROMPT_ID_BYTES,
        "objective": row["run_config"]["objective"]["name"],
        "top_k": 0 if alternatives is None else alternatives.shape[1],
        "columns": columns,
        "absent": {} if problem else _absent(columns),
        "scales": row["run_scales"],
        "marks": marks,
        "damaged": bool(problem),
        "damage": problem,
    }


def record_row(
    connection: Connection, rollout_id: str, columns: tuple[str, ...] = packing.COLUMNS
) -> dict[str, Any]:
    """Version, layout and those columns of a rollout's token record, still packed."""
    row = connection.execute(_records(columns).where(token_record.c.rollout_id == rollout_id))
    values = row.mappings().first()
    return dict(values) if values else {"version": None}


def _records(columns: tuple[str, ...]) -> Select[Any]:
    names = ("rollout_id", "version", "layout", *columns)
    return select(*(token_record.c[name] for name in names))


def ordering(sort: str) -> ColumnElement[Any]:
    """By one of SORTABLE, descending with "-" before it. Raises UserError."""
    name = sort.removeprefix("-")
    if name not in SORTABLE:
        raise UserError(
            f"cannot sort by {name!r:.80}; use one of {', '.join(SORTABLE)}, with - for descending",
            where="sort",
        )
    column = table.c[name]
    order = column.desc() if sort.startswith("-") else column.asc()
    return order.nulls_last() if column.nullable else order


def _digest(prompt_id: str, ids: NDArray[Any] | None) -> str | None:
    """Alike for rollouts of one prompt with the very same tokens; None where they are not known."""
    if ids is None:
        return None
    content = prompt_id.encode() + ids.astype("<u4").tobytes()
    return hashlib.blake2b(content, digest_size=12).hexdigest()


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:CUT]


def _checked(connection: Connection, sizes: dict[str, int]) -> dict[str, NDArray[Any] | None]:
    """The completion's ids of each record that reads back whole, None of each that does not;
    those beyond CHECKED_BYTES are left out."""
    checked: dict[str, NDArray[Any] | None] = {}
    total = 0
    for rollout_id, size in sizes.items():
        total += size
        if total > CHECKED_BYTES:
            break
        checked[rollout_id] = None
    rows = connection.execute(
        _records(packing.COLUMNS).where(token_record.c.rollout_id.in_(list(checked)))
    )
    for row in rows.mappings():
        try:
            ids = packing.unpack(row["rollout_id"], dict(row))["completion_ids"]
        except packing.DamagedRecord:
            checked[row["rollout_id"]] = None
        else:
            checked[row["rollout_id"]] = ids
    return checked


def _column_names(arrays: dict[str, Any]) -> list[str]:
    """The present columns; the four arrays of one model's top-k count as one."""
    names = [name for name in arrays if "_topk_" not in name]
    return names + [f"{s}_topk" for s in ("student", "teacher") if f"{s}_topk_ids" in arrays]


def _absent(columns: list[str]) -> dict[str, str]:
    single = tuple(name for name in packing.COLUMNS if "_topk_" not in name)
    return {
        name: ABSENT.get(name, "Not computed; `opd score` can add this.")
        for name in (*single, "student_topk", "teacher_topk")
        if name not in columns
    }
