"""A run's rollouts as rows of a table, one after the other, without their tokens."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Engine, select

from opd.grading.outcome import is_right
from storage import packing
from storage.engine import read
from storage.lookups import run_fingerprint, run_row
from storage.marks.listing import exported_marks
from storage.read.extracted import StoredCompletion, read_extractions
from storage.read.rollouts import RolloutFilter, ordering, record_row
from storage.schema import prompt
from storage.schema import rollout as table

CHUNK = 64  # rollouts a look at the database
_FIELDS = (
    *("id", "run_id", "step", "kind", "group", "sample", "completion", "reward", "finish_reason"),
    *("tokens", "kl_sum", "kl_mean", "kl_max", "log_ratio_sum", "student_logprob_sum"),
    *("temperature", "author", "teacher_end", "staleness"),
)


def table_rows(
    engine: Engine, run_id: str, *, sort: str = "", **filters: Any
) -> Iterator[dict[str, Any]]:
    """The rollouts that match, with the columns of spreadsheet.ROLLOUT_COLUMNS.

    `filters` and `sort` are those of read_rollouts; without `sort`, by step, kind, group and
    sample. Which ones is settled at the call; of them, CHUNK at a time are held. Raises UserError.
    """
    where = RolloutFilter(**filters).conditions(run_id)
    plain = [table.c[name] for name in ("step", "kind", "group", "sample")]
    order = [ordering(sort)] if sort else plain
    with read(engine) as connection:
        run = run_row(connection, run_id)
        query = select(table.c.id).where(*where).order_by(*order, table.c.id)
        ids = list(connection.scalars(query))
    return _rows(engine, run["config"], run_fingerprint(run), ids)


def _rows(
    engine: Engine, config: dict[str, Any], tokenizer: str, ids: list[str]
) -> Iterator[dict[str, Any]]:
    for start in range(0, len(ids), CHUNK):
        with read(engine) as connection:
            chunk = _chunk(connection, ids[start : start + CHUNK])
            extracted = _extracted(connection, config, tokenizer, chunk)
        for row in chunk:
            yield {
                **{name: row[name] for name in _FIELDS},
                **{"prompt": row["prompt"], "answer": row["answer"]},
                "right": is_right(row["reward"]),
                "extracted": extracted.get(row["id"]),
                "marks": _marks(row["marks"]),
            }


def _chunk(connection: Connection, ids: list[str]) -> list[dict[str, Any]]:
    """The rollouts in the order of their ids here; one that is gone meanwhile is left out."""
    query = (
        select(*(table.c[name] for name in _FIELDS), prompt.c.text.label("prompt"), prompt.c.answer)
        .join(prompt, prompt.c.id == table.c.prompt_id)
        .where(table.c.id.in_(ids))
    )
    rows = {row["id"]: dict(row) for row in connection.execute(query).mappings()}
    marks = exported_marks(connection, list(rows))
    for name, row in rows.items():
        row["marks"] = marks.get(name, [])
    return [rows[name] for name in ids if name in rows]


def _marks(marks: list[dict[str, Any]]) -> str | None:
    """A line for each mark: its position, or "rollout", and its note; None without any."""
    lines = [f"{'rollout' if m['position'] is None else m['position']}: {m['note']}" for m in marks]
    return "\n".join(lines) or None


def _extracted(
    connection: Connection, config: dict[str, Any], tokenizer: str, rows: list[dict[str, Any]]
) -> dict[str, str | None]:
    """What the grader took out of each; nothing of a damaged record, whose marks are not known."""
    if (config.get("prompts") or {}).get("grader") in (None, "none"):
        return {}
    completions = {}
    for row in rows:
        name, column = row["id"], ("completion_ids",)
        try:
            ids = packing.unpack(name, record_row(connection, name, column), column)[column[0]]
        except packing.DamagedRecord:
            continue
        completions[name] = StoredCompletion(row["completion"], ids)
    extractions = read_extractions(connection, config, tokenizer, completions)
    return {name: one.text for name, one in extractions.items()}
