"""Other rollouts of one prompt: of the same run step by step, and of other runs."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, RowMapping, case, func, literal, select

from opd.grading.outcome import is_right
from storage.engine import read
from storage.lookups import page_limit, prompt_id, rollout_row, shown
from storage.packing import COLUMNS
from storage.read.rollouts import record_row
from storage.schema import rollout, run, token_record

MOST_RUNS = 200  # the newest other runs that are looked through
_IDS = COLUMNS[0]
_FIELDS = (
    *("id", "run_id", "step", "kind", "group", "sample", "tokens", "finish_reason", "author"),
    *("temperature", "reward", "kl_sum", "kl_mean", "kl_max"),
)


def read_related(engine: Engine, rollout_id: str, *, limit: int = 200) -> dict[str, Any]:
    """The other rollouts of a rollout's prompt, without itself.

    {"items": this run's by step, "total", "others": {"items", "total"}}: of up to MOST_RUNS other
    runs, the newest first, those that hold the same prompt (text, token ids, and the same answer
    or none). `limit` bounds either list; of this run the probes come first into it. Each item has
    `run_name`, and `same_completion`: are its completion's token ids this one's? Raises UserError
    of kind "not found".
    """
    page_limit(limit)
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
        ids = record_row(connection, rollout_id, (_IDS,)).get(_IDS)
        same = _same_completion(row["tokens"], ids)
        others = _elsewhere(connection, row)
        here: list[ColumnElement[bool]] = [rollout.c.id != rollout_id]
        here.append(rollout.c.prompt_id == row["prompt_id"])
        probes_first = case((rollout.c.kind == "probe", 0), else_=1)
        mine = _page(connection, here, same, (probes_first, rollout.c.step), limit)
        mine["items"].sort(key=lambda item: (item["step"], item["kind"], item["sample"]))
        there: list[ColumnElement[bool]] = [rollout.c.prompt_id.in_(others)]
        newest = (run.c.created_at.desc(), run.c.id, rollout.c.step.desc())
        elsewhere = _page(connection, there, same, newest, limit)
    return {**mine, "others": elsewhere}


def read_near(engine: Engine, rollout_id: str, *, limit: int = 60) -> dict[str, Any]:
    """The run's other rollouts of the prompt, those of the nearest steps first; "items", "total"
    as in `read_related`. Raises UserError of kind "not found"."""
    page_limit(limit)
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
        ids = record_row(connection, rollout_id, (_IDS,)).get(_IDS)
        where = [rollout.c.id != rollout_id, rollout.c.prompt_id == row["prompt_id"]]
        order = (func.abs(rollout.c.step - row["step"]), rollout.c.step, rollout.c.sample)
        return _page(connection, where, _same_completion(row["tokens"], ids), order, limit)


def _elsewhere(connection: Connection, row: RowMapping) -> list[str]:
    """Which id the prompt would have in each of the newest other runs: an id is computed from run,
    text, answer and token ids.
    """
    runs = connection.scalars(
        select(run.c.id)
        .where(*shown(), run.c.id != row["run_id"])
        .order_by(run.c.created_at.desc(), run.c.id)
        .limit(MOST_RUNS)
    )
    answers = dict.fromkeys((row["answer"], None))
    text, ids = row["prompt"], row["prompt_ids"]
    return [prompt_id(name, text, answer, ids) for name in runs for answer in answers]


def _same_completion(tokens: int, ids: bytes | None) -> ColumnElement[bool]:
    """Whether ids are equal: equal ones are packed to equal bytes."""
    if ids is None:
        return literal(False)
    return case((rollout.c.tokens == tokens, token_record.c[_IDS] == ids), else_=False)


def _page(
    connection: Connection,
    conditions: list[ColumnElement[bool]],
    same: ColumnElement[bool],
    order: Sequence[ColumnElement[Any]],
    limit: int,
) -> dict[str, Any]:
    """The first rollouts in an order, and how many there are; `same`: whose completion is equal."""
    where = [*conditions, *shown()]
    joined = rollout.join(run, run.c.id == rollout.c.run_id)
    rows = connection.execute(
        select(*(rollout.c[name] for name in _FIELDS), run.c.name.label("run_name"))
        .add_columns(func.coalesce(same, False).label("same_completion"))
        .select_from(joined.outerjoin(token_record, token_record.c.rollout_id == rollout.c.id))
        .where(*where)
        .order_by(*order, rollout.c.id)
        .limit(limit)
    ).mappings()
    items = [
        {
            **row,
            "right": is_right(row["reward"]),
            "same_completion": bool(row["same_completion"]),
        }
        for row in rows
    ]
    if len(items) < limit:
        return {"items": items, "total": len(items)}
    total = connection.scalar(select(func.count()).select_from(joined).where(*where))
    return {"items": items, "total": total or 0}
