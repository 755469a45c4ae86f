"""Rollouts that were asked for beside a run: branches of its rollouts, and kept replies.

A branch's id says where it left its parent: PARENT-b-POSITION-AUTHOR-SAMPLE-DIGEST. Its parent may
be written anew by a resumed run, under the same id, and stays its parent. What was asked for does
not enter the run's worst tokens or its colour scales, which are those of the run's own rollouts.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, delete, select, update

from opd.errors import ErrorKind, UserError
from opd.grading.outcome import is_right
from opd.types import Rollout
from storage import schema
from storage.engine import begin, read
from storage.lookups import run_row
from storage.vocabulary import Vocabulary
from storage.write.insert import insert_rows
from storage.write.records import VocabularySource
from storage.write.rows import RowMaker, distinct_ids

MAX_ID = 96  # characters of a rollout's id
BRANCH = re.compile(r"(?P<parent>.+)-b-(?P<position>\d+)-[st]-\d+-[0-9a-f]{8}")
_FIELDS = (
    *("id", "step", "author", "sample", "tokens", "finish_reason", "temperature", "reward"),
    *("kl_sum", "kl_mean", "kl_max", "completion"),
)
CUT = 400  # characters of a completion in a list


def branch_id(parent: str, position: int, rollout: Rollout, asked: Mapping[str, Any]) -> str:
    """The id of a branch; the same for the same question. Raises UserError when it is too long."""
    place = f"{parent}-b-{position}-{rollout.author[0]}-{rollout.sample}"
    name = f"{place}-{_digest(asked)}"
    if len(name) > MAX_ID:
        raise UserError(
            f"a branch of a branch of a branch: its id would have {len(name)} characters, at most "
            f"{MAX_ID}; go on from one of its parents",
            where="rollout",
        )
    return name


def reply_id(run_id: str, asked: Mapping[str, Any]) -> str:
    """The id of a kept reply of a chat."""
    return f"roll-{run_id.removeprefix('run-')}-chat-{_digest(asked)}"


def keep(
    engine: Engine,
    run_id: str,
    rollouts: Mapping[str, Rollout],
    tokenizer: str,
    vocabulary: VocabularySource,
) -> None:
    """Stores rollouts under their ids, in place of what an equal question stored before.

    The run may be training meanwhile: its lease is not needed. Raises "not found" where it was
    deleted. `tokenizer` is the fingerprint of the models'.
    """
    listed = list(rollouts.values())
    maker = RowMaker(run_id, hot_tokens=0)
    rows = maker.rows(listed)
    for name, row, record in zip(rollouts, rows.rollouts, rows.records, strict=True):
        row["id"] = record["rollout_id"] = name
    with read(engine) as connection:
        known = run_row(connection, run_id)["tokenizer"] or run_id
    if known != tokenizer:
        raise UserError(
            "the models' tokenizer is not the one that the run was stored with; its tokens would "
            "be read wrongly",
            where="student.model",
            kind=ErrorKind.TOKENIZER_MISMATCH,
        )
    words = Vocabulary(engine, tokenizer)
    texts = words.missing(distinct_ids(listed), vocabulary)
    table = schema.rollout
    with begin(engine) as connection:
        run_row(connection, run_id)
        before = connection.execute(
            select(table.c.id, table.c.bytes).where(table.c.id.in_(list(rollouts)))
        ).all()
        connection.execute(delete(table).where(table.c.id.in_([row.id for row in before])))
        insert_rows(connection, rows, words.rows(connection, texts))
        added = rows.bytes - sum(row.bytes for row in before)
        connection.execute(
            update(schema.run)
            .where(schema.run.c.id == run_id)
            .values(bytes=schema.run.c.bytes + added)
        )


def parent_of(rollout_id: str) -> tuple[str, int] | None:
    """The rollout that a branch left, and at which position; None for what is no branch."""
    found = BRANCH.fullmatch(rollout_id)
    return (found["parent"], int(found["position"])) if found else None


def branches(engine: Engine, rollout_id: str) -> dict[str, Any]:
    """The branches that left a rollout, by position; each with its figures and `position`.

    Sums are over the tokens from the position on. {"items", "total", "parent": {"id", "position"}
    or None}: `parent` is what this rollout itself left. Raises "not found".
    """
    table = schema.rollout
    with read(engine) as connection:
        run = connection.scalar(select(table.c.run_id).where(table.c.id == rollout_id))
        if run is None:
            raise UserError("no such run or rollout", where=rollout_id, kind=ErrorKind.NOT_FOUND)
        run_row(connection, run)
        rows = connection.execute(
            select(*(table.c[name] for name in _FIELDS)).where(
                table.c.run_id == run,
                table.c.kind == "branch",
                table.c.id.startswith(f"{rollout_id}-b-", autoescape=True),
            )
        ).mappings()
        items = [
            {
                **row,
                "right": is_right(row["reward"]),
                "completion": row["completion"][:CUT],
                "position": place[1],
            }
            for row in rows
            if (place := parent_of(row["id"])) and place[0] == rollout_id
        ]
    items.sort(key=lambda item: (item["position"], item["step"], item["author"], item["id"]))
    parent = parent_of(rollout_id)
    return {
        "items": items,
        "total": len(items),
        "parent": {"id": parent[0], "position": parent[1]} if parent else None,
    }


def _digest(asked: Mapping[str, Any]) -> str:
    text = json.dumps(asked, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
