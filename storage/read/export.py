"""Rollouts with their token records as JSON-able rows, in the form that `opd import` reads."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sqlalchemy import Engine, select

from opd.types import TOKEN_COLUMNS
from storage import packing
from storage.engine import read
from storage.lookups import fingerprint, rollout_row, run_fingerprint, run_row
from storage.marks.listing import exported_marks
from storage.read.rollouts import record_row
from storage.read.teachers import teacher_names
from storage.schema import prompt, rollout, teacher_prompt
from storage.text import joined_texts, token_text
from storage.vocabulary import Texts, read_texts

CHUNK = 32  # rollouts a look at the database
_PLAIN = (
    *("run_id", "step", "kind", "group", "sample", "prompt", "completion", "finish_reason"),
    *("reward", "temperature"),
)

_SOME = (  # left out where there is nothing to say
    *("teacher_end", "teacher", "teacher_prompt", "answer", "data_row", "marks", "staleness"),
)


def export_rows(
    engine: Engine,
    run_id: str,
    on_damaged: Callable[[packing.DamagedRecord], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Every rollout of a run, by step, kind, group and sample.

    A damaged record goes to `on_damaged` and is left out; without it, DamagedRecord is raised.
    """
    table = rollout.c
    order = (table.step, table.kind, table.group, table.sample, table.id)
    with read(engine) as connection:
        run = run_row(connection, run_id)
        name, names = run_fingerprint(run), teacher_names(run["config"], run["source"])
        ids = list(
            connection.scalars(select(table.id).where(table.run_id == run_id).order_by(*order))
        )
    yield from _rows(engine, (name, names), ids, on_damaged)


def export_row(engine: Engine, rollout_id: str) -> dict[str, Any]:
    """One rollout. Raises DamagedRecord, "not found"."""
    with read(engine) as connection:
        row = rollout_row(connection, rollout_id)
    names = teacher_names(row["run_config"], row["run_source"])
    return next(_rows(engine, (fingerprint(row), names), [rollout_id]))


def _rows(
    engine: Engine,
    of_run: tuple[str, dict[str, str]],
    ids: list[str],
    on_damaged: Callable[[packing.DamagedRecord], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """The rollouts; `of_run`: under which name token texts are stored, and its teachers' names."""
    texts: Texts = {}
    name, names = of_run
    for start in range(0, len(ids), CHUNK):
        for row, record in _chunk(engine, ids[start : start + CHUNK]):
            try:
                arrays = packing.unpack(row["id"], record)
            except packing.DamagedRecord as error:
                if on_damaged is None:
                    raise
                on_damaged(error)
                continue
            teacher = names.get(row["teacher"], row["teacher"])
            yield _exported(engine, name, {**row, "teacher": teacher, "arrays": arrays}, texts)


def _chunk(engine: Engine, ids: list[str]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    query = (
        select(rollout, prompt.c.text.label("prompt"), prompt.c.ids, prompt.c.answer)
        .add_columns(prompt.c.data_row, teacher_prompt.c.text.label("teacher_prompt"))
        .join(prompt, prompt.c.id == rollout.c.prompt_id)
        .outerjoin(teacher_prompt, teacher_prompt.c.id == rollout.c.teacher_prompt_id)
        .where(rollout.c.id.in_(ids))
    )
    with read(engine) as connection:
        rows = {row["id"]: dict(row) for row in connection.execute(query).mappings()}
        marks = exported_marks(connection, list(rows))
        for name, row in rows.items():
            row["marks"] = marks.get(name)
        return [(rows[name], record_row(connection, name)) for name in ids if name in rows]


def _exported(engine: Engine, name: str, row: dict[str, Any], texts: Texts) -> dict[str, Any]:
    arrays = row["arrays"]
    prompt_ids = np.frombuffer(row["ids"], "<u4").tolist()
    completion_ids = arrays["completion_ids"].tolist()
    listed = {int(i) for side in ("student", "teacher") for i in _listed_ids(arrays, side)}
    new = {*prompt_ids, *completion_ids, *listed} - texts.keys()
    if new:
        with read(engine) as connection:
            texts.update(read_texts(connection, name, new))
    stored_texts = row["texts"] or {}
    exported = {
        **{field: row[field] for field in _PLAIN},
        **({} if row["author"] == "student" else {"author": row["author"]}),
        **{field: row[field] for field in _SOME if row[field] is not None},
        "prompt_token_ids": prompt_ids,
        "completion_token_ids": completion_ids,
        **{field: _listed(arrays, field) for field in TOKEN_COLUMNS},
        "student_topk": _pairs(arrays, "student"),
        "teacher_topk": _pairs(arrays, "teacher"),
        **_own_texts("prompt_tokens", stored_texts.get("prompt"), prompt_ids, texts),
        **_own_texts("completion_tokens", stored_texts.get("completion"), completion_ids, texts),
        **_other_texts(listed - {*prompt_ids, *completion_ids}, texts),
    }
    return exported | _exact(exported, texts)


def _listed(arrays: dict[str, Any], field: str) -> list[Any] | None:
    return arrays[field].tolist() if field in arrays else None


def _pairs(arrays: dict[str, Any], side: str) -> list[Any] | None:
    """[[id, log-probability] …] for every token."""
    if f"{side}_topk_ids" not in arrays:
        return None
    ids, logprobs = arrays[f"{side}_topk_ids"].tolist(), arrays[f"{side}_topk_logprobs"].tolist()
    return [
        [list(pair) for pair in zip(*token, strict=True)]
        for token in zip(ids, logprobs, strict=True)
    ]


def _listed_ids(arrays: dict[str, Any], side: str) -> Any:
    return np.unique(arrays.get(f"{side}_topk_ids", np.zeros(0, np.int64)))


def _other_texts(ids: set[int], texts: Texts) -> dict[str, list[list[Any]]]:
    """[[id, text] …] of alternatives that stand nowhere in the rollout itself."""
    pairs = [[i, token_text(texts[i][0])] for i in sorted(ids) if i in texts]
    return {"token_texts": pairs} if pairs else {}


def _exact(row: dict[str, Any], texts: Texts) -> dict[str, list[list[Any]]]:
    """[[id, bytes in hex] …] of tokens that the row's texts do not tell, as parts of characters."""
    pairs = {
        *zip(row["prompt_token_ids"], row.get("prompt_tokens", ()), strict=False),
        *zip(row["completion_token_ids"], row.get("completion_tokens", ()), strict=False),
        *map(tuple, row.get("token_texts", ())),
    }
    odd = {i for i, text in pairs if i in texts and text.encode() != texts[i][0]}
    return {"token_bytes": [[i, texts[i][0].hex()] for i in sorted(odd)]} if odd else {}


def _own_texts(
    field: str, stored: list[str] | None, ids: list[int], texts: Texts
) -> dict[str, list[str]]:
    """Each token's text, when all are known."""
    if stored is not None:
        return {field: stored}
    if not all(i in texts for i in ids):
        return {}
    return {field: joined_texts(texts[i][0] for i in ids)}
