"""Marks with what they stand on: of a run, of a rollout, of many rollouts."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, Select, func, select

from opd.grading.outcome import is_right
from storage.engine import read
from storage.lookups import (
    fingerprint,
    in_chunks,
    page_limit,
    page_offset,
    rollout_row,
    run_fingerprint,
    run_row,
    shown,
)
from storage.marks.edit import as_shown, digest, no_mark
from storage.schema import WHOLE, mark, prompt, rollout, run, token_record
from storage.token_context import TokenContext
from storage.vocabulary import read_texts

CUT = 400  # characters of a text in a list
_ABOUT = ("step", "kind", "group", "sample")


def read_marks(engine: Engine, run_id: str, *, offset: int = 0, limit: int = 100) -> dict[str, Any]:
    """A page of the run's marks by step, prompt, sample and position.

    Each with its rollout (step, kind, group, sample, right, prompt, completion; None where a
    resumed run has not written it again) and, of a token, `text`, `before` and `after`.
    `rewritten` says that a resumed run wrote another text there than the one that was marked.
    """
    order = [rollout.c[name].nulls_last() for name in ("step", "kind", "group", "sample")]
    page = (
        _marks()
        .where(mark.c.run_id == run_id)
        .order_by(*order, mark.c.rollout_id, mark.c.position)
        .limit(page_limit(limit))
        .offset(page_offset(offset))
    )
    with read(engine) as connection:
        stored = run_row(connection, run_id)
        total = connection.scalar(
            select(func.count()).select_from(mark).where(mark.c.run_id == run_id)
        )
        items = _items(connection, run_fingerprint(stored), page)
    return {"items": items, "total": total or 0}


def read_rollout_marks(engine: Engine, rollout_id: str) -> list[dict[str, Any]]:
    """Of one rollout: that on the whole first, then by position."""
    query = _marks().where(mark.c.rollout_id == rollout_id).order_by(mark.c.position)
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
        return _items(connection, fingerprint(row), query)


def read_mark(engine: Engine, mark_id: str) -> dict[str, Any]:
    """Raises "not found"."""
    with read(engine) as connection:
        runs = connection.execute(
            select(run).join(mark, mark.c.run_id == run.c.id).where(mark.c.id == mark_id, *shown())
        )
        row = runs.mappings().first()
        if row is None:
            raise no_mark(mark_id)
        return _items(connection, run_fingerprint(row), _marks().where(mark.c.id == mark_id))[0]


def counted_marks(connection: Connection, rollout_ids: Collection[str]) -> dict[str, int]:
    """How many marks those of the rollouts have that have any."""
    counts: dict[str, int] = {}
    for ids in in_chunks(rollout_ids):
        rows = connection.execute(
            select(mark.c.rollout_id, func.count())
            .where(mark.c.rollout_id.in_(ids))
            .group_by(mark.c.rollout_id)
        )
        counts.update({row[0]: row[1] for row in rows})
    return counts


def plain_marks(connection: Connection, rollout_id: str, completion: str) -> list[dict[str, Any]]:
    """Of one rollout with that text, by position, without the text around them."""
    rows = connection.execute(
        select(mark).where(mark.c.rollout_id == rollout_id).order_by(mark.c.position)
    )
    now = digest(completion)
    return [
        {**as_shown(dict(row)), "rewritten": row["completion"] != now} for row in rows.mappings()
    ]


def exported_marks(
    connection: Connection, rollout_ids: Collection[str]
) -> dict[str, list[dict[str, Any]]]:
    """By rollout: [{"position", "note"}], as a file of rollouts has them."""
    marks: dict[str, list[dict[str, Any]]] = {}
    for ids in in_chunks(rollout_ids):
        rows = connection.execute(
            select(mark.c.rollout_id, mark.c.position, mark.c.note)
            .where(mark.c.rollout_id.in_(ids))
            .order_by(mark.c.position)
        )
        for name, position, note in rows:
            shown_at = None if position == WHOLE else position
            marks.setdefault(name, []).append({"position": shown_at, "note": note})
    return marks


def _marks() -> Select[Any]:
    packed = (token_record.c[name] for name in ("layout", "completion_ids"))
    return (
        select(mark, *(rollout.c[name] for name in _ABOUT), rollout.c.reward, rollout.c.texts)
        .add_columns(rollout.c.id.label("found"), rollout.c.completion.label("now"))
        .add_columns(prompt.c.text.label("prompt"), token_record.c.version.label("record"))
        .add_columns(*packed)
        .outerjoin(rollout, rollout.c.id == mark.c.rollout_id)
        .outerjoin(prompt, prompt.c.id == rollout.c.prompt_id)
        .outerjoin(token_record, token_record.c.rollout_id == mark.c.rollout_id)
    )


def _items(connection: Connection, tokenizer: str, query: Select[Any]) -> list[dict[str, Any]]:
    rows = [dict(row) for row in connection.execute(query).mappings()]
    contexts = [_context(row) for row in rows]
    ids = {i for context in contexts if context for i in context.ids}
    texts = read_texts(connection, tokenizer, ids)
    return [
        {
            **as_shown(row),
            **{name: row[name] for name in _ABOUT},
            "right": is_right(row["reward"]),
            "prompt": row["prompt"] and row["prompt"][:CUT],
            "completion": row["now"] and row["now"][:CUT],
            "rewritten": row["found"] is not None and digest(row["now"]) != row["completion"],
            **(context.read(texts) if context else dict.fromkeys(("text", "before", "after"))),
        }
        for row, context in zip(rows, contexts, strict=True)
    ]


def _context(row: Mapping[str, Any]) -> TokenContext | None:
    """The token of a mark; None for one on a whole rollout, and where that is gone."""
    if row["position"] == WHOLE or row["found"] is None:
        return None
    return TokenContext({**row, "version": row["record"]})
