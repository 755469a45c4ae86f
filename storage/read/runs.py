"""The read side: plain dicts for pages, routes and the command line.

Every function takes one short look at the database. Lists are {"items": […], "total": n}.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    func,
    or_,
    select,
)

from opd.config.run import parse
from opd.config.wording import trained
from opd.errors import UserError
from opd.types import EarlierAttempts, Score
from storage import clock
from storage.engine import holds_text, read
from storage.lookups import in_chunks, page_limit, page_offset, run_row, shown
from storage.queue.inputs import stored_inputs
from storage.read.teachers import teachers_of
from storage.recipes import CORE, recipe_names
from storage.schema import checkpoint, evaluation, run_tag, step
from storage.schema import run as run_table

RUN_FIELDS = (
    *("id", "name", "status", "source", "recipe", "student", "teacher", "steps", "step", "phase"),
    *("kl", "score", "score_start", "score_suite", "created_at", "started_at", "finished_at"),
    *("error_kind", "error_text", "hint", "notes", "parent", "seed", "objective", "attempt"),
    *("slot", "device", "cancel_mode", "cancel_at", "heartbeat_at", "bytes", "tokens", "flops"),
    *("end_reason", "version", "started_by", "cancel_by", "resumed_by"),
    *("loaded_device", "cluster_job"),
)
_SEARCHED = ("id", "name", "notes", "recipe", "student", "teacher", "started_by")
_NEWEST = (run_table.c.created_at.desc(), run_table.c.id)  # first


def read_runs(
    engine: Engine,
    *,
    search: str = "",
    limit: int = 100,
    offset: int = 0,
    **filters: str,
) -> dict[str, Any]:
    """Runs, newest first. `search` looks into id, name, notes, recipe, models, tags and who started
    it; `filters` as of `conditions`."""
    where = conditions(engine, search=search, **filters)
    page = listed().where(*where).limit(page_limit(limit)).offset(page_offset(offset))
    with read(engine) as connection:
        rows = connection.execute(page).mappings().all()
        return {"items": run_items(connection, rows), "total": count(connection, where)}


def conditions(
    engine: Engine,
    *,
    search: str = "",
    status: str = "",
    tag: str = "",
    started_by: str = "",
    host: str = "",
) -> list[ColumnElement[bool]]:
    """Which runs a list shows. `host`: on which they run or ran last."""
    where = shown()
    if search:
        where.append(_holds(engine, search, _SEARCHED))
    if status:
        where.append(run_table.c.status == status)
    if tag:
        where.append(run_table.c.id.in_(select(run_tag.c.run_id).where(run_tag.c.tag == tag)))
    if started_by:
        where.append(run_table.c.started_by == started_by)
    if host:
        there = run_table.c.owner_place.startswith(f"{host} ", autoescape=True)
        where += [there, run_table.c.attempt > 0, run_table.c.status != "queued"]
    return where


def _holds(engine: Engine, search: str, names: Sequence[str]) -> ColumnElement[bool]:
    """Whether one of these columns or a tag of the run holds the text."""
    texts = [holds_text(engine, run_table.c[name], search) for name in names]
    tagged = select(run_tag.c.run_id).where(holds_text(engine, run_tag.c.tag, search))
    return or_(*texts, run_table.c.id.in_(tagged))


def listed(*more: ColumnElement[Any]) -> Select[Any]:
    """Rows of runs as `run_items` takes them, newest first; `more`: further columns."""
    fields = [run_table.c[name] for name in (*RUN_FIELDS, "seconds", "attempt_at", "owner_place")]
    return select(*fields, *CORE, *more).order_by(*_NEWEST)


def count(connection: Connection, where: Sequence[ColumnElement[bool]]) -> int:
    return connection.scalar(select(func.count()).select_from(run_table).where(*where)) or 0


def run_items(connection: Connection, rows: Sequence[RowMapping]) -> list[dict[str, Any]]:
    """The rows as lists show runs."""
    tags = _tags(connection, [row["id"] for row in rows])
    now = _now(connection, rows)
    return [_run_item(row, tags, now) for row in rows]


def read_run(engine: Engine, run_id: str) -> dict[str, Any]:
    """One run with its config, what was loaded, and its checkpoints (oldest first)."""
    with read(engine) as connection:
        row = run_row(connection, run_id)
        tags = _tags(connection, [run_id])
        now = _now(connection, [row])
        checkpoints = connection.execute(
            select(checkpoint).where(checkpoint.c.run_id == run_id).order_by(checkpoint.c.step)
        ).mappings()
        saved = [
            {name: c[name] for name in ("step", "path", "manifest", "created_at")}
            for c in checkpoints
        ]
    details = (
        "config",
        "evaluation_prompts",
        "resolved",
        "versions",
        "parameters",
        "tokenizer",
    )
    inputs = stored_inputs(row["inputs"])
    return {
        **_run_item(row, tags, now),
        **{name: row[name] for name in details},
        "teachers": teachers_of(row["config"], row["source"]),
        "trained": _trained(row),
        "rendered_as_of": inputs.moment,
        "accepted_changes": inputs.accepted,
        "checkpoints": saved,
        "scales": row["scales"],
    }


def read_saved_runs(
    engine: Engine, *, search: str = "", limit: int = 100, offset: int = 0
) -> dict[str, Any]:
    """Runs that have a checkpoint, newest first, each with the steps of all it has.

    `search` looks into ids, names, models and tags."""
    where = [*shown(), run_table.c.id.in_(select(checkpoint.c.run_id))]
    if search:
        where.append(_holds(engine, search, ("id", "name", "student")))
    names = ("id", "name", "status", "student", "score", "created_at")
    page = (
        select(*(run_table.c[name] for name in names))
        .where(*where)
        .order_by(*_NEWEST)
        .limit(page_limit(limit))
        .offset(page_offset(offset))
    )
    with read(engine) as connection:
        rows = connection.execute(page).mappings().all()
        total = count(connection, where)
        steps = connection.execute(
            select(checkpoint.c.run_id, checkpoint.c.step)
            .where(checkpoint.c.run_id.in_([row["id"] for row in rows]))
            .order_by(checkpoint.c.step)
        ).all()
    items = [{**row, "steps": [s.step for s in steps if s.run_id == row["id"]]} for row in rows]
    return {"items": items, "total": total}


def _trained(row: Any) -> str:
    """Which quantity was trained and how it was reduced; empty for an import."""
    try:
        return "" if row["source"] == "import" else trained(parse(row["config"]))
    except UserError:  # a configuration of another version
        return ""


def read_steps(engine: Engine, run_id: str, *, after: int = -1) -> dict[str, Any]:
    """The steps later than `after`, as columns; None where a step lacks a value.

    step, attempt, created_at, tokens, flops, seconds_PHASE, and every metric by its name.
    `not_finite`: how many values of a metric were NaN or infinite when they were recorded."""
    with read(engine) as connection:
        last = run_row(connection, run_id)["step"]
        rows = connection.execute(
            select(step).where(step.c.run_id == run_id, step.c.step > after).order_by(step.c.step)
        ).all()
    plain = ("step", "attempt", "created_at", "tokens", "flops")
    columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in plain}
    for field, prefix in (("seconds", "seconds_"), ("metrics", "")):
        for name in dict.fromkeys(name for row in rows for name in getattr(row, field)):
            values = [getattr(row, field).get(name) for row in rows]
            columns.setdefault(prefix + name, values)
    broken = Counter(name for row in rows for name, v in row.metrics.items() if v is None)
    last_step = columns["step"][-1] if rows else max(after, last)
    return {"columns": columns, "last": last_step, "not_finite": dict(broken)}


def read_evaluations(engine: Engine, run_id: str) -> dict[str, Any]:
    """All figures of all evaluations, by step, in the order in which they were reported."""
    fields = ("step", "suite", "metric", "value", "n", "standard_error")
    with read(engine) as connection:
        run_row(connection, run_id)
        rows = connection.execute(
            select(*(evaluation.c[name] for name in fields))
            .where(evaluation.c.run_id == run_id)
            .order_by(evaluation.c.step, evaluation.c.number)
        ).mappings()
        items = [dict(row) for row in rows]
    return {"items": items, "total": len(items)}


def read_earlier_attempts(engine: Engine, run_id: str, step: int) -> EarlierAttempts:
    """The run's time until now, and its evaluations up to the step at which an attempt begins."""
    evaluations: dict[int, list[Score]] = {}
    for row in read_evaluations(engine, run_id)["items"]:
        if row["step"] <= step and row["value"] is not None:
            evaluations.setdefault(row.pop("step"), []).append(Score(**row))
    return EarlierAttempts(read_run(engine, run_id)["seconds"], evaluations)


def _tags(connection: Connection, run_ids: Sequence[str]) -> dict[str, list[str]]:
    tags: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
    for some in in_chunks(run_ids, size=10_000):
        rows = connection.execute(
            select(run_tag).where(run_tag.c.run_id.in_(some)).order_by(run_tag.c.tag)
        )
        for row in rows:
            tags[row.run_id].append(row.tag)
    return tags


def _now(connection: Connection, rows: Sequence[RowMapping]) -> float:
    """For the time that running runs have taken so far; 0 where none runs."""
    return clock.now(connection) if any(row["status"] == "running" for row in rows) else 0.0


def _run_item(row: RowMapping, tags: Mapping[str, list[str]], now: float) -> dict[str, Any]:
    seconds = row["seconds"]
    if row["status"] == "running":
        seconds += max(0.0, now - row["attempt_at"])
    worked_on = row["attempt"] > 0 and row["status"] != "queued"
    return {
        **{name: row[name] for name in RUN_FIELDS},
        "host": (row["owner_place"] or "").partition(" ")[0] or None if worked_on else None,
        **recipe_names(row),
        "progress": min(1.0, row["step"] / row["steps"]) if row["steps"] else 1.0,
        "seconds": seconds,
        "tags": tags[row["id"]],
    }
