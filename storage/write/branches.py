"""Rollouts requested beside a run: branches of its rollouts, and kept replies.

A branch's id says where it left its parent: PARENT-b-POSITION-AUTHOR-SAMPLE-DIGEST. Its parent may
be written anew by a resumed run, under the same id, and stays its parent. Requested rollouts
do not enter the run's worst tokens or its colour scales, which are those of the run's own rollouts.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Engine, delete, select, update

from opd.errors import ErrorKind, UserError
from opd.types import Rollout
from storage import schema
from storage.engine import begin, read
from storage.lookups import run_row
from storage.vocabulary import Vocabulary
from storage.write.insert import insert_rows
from storage.write.records import VocabularySource
from storage.write.rows import RowMaker, distinct_ids

MAX_ID = 96  # characters of a rollout's id


def branch_id(parent: str, position: int, rollout: Rollout, request: Mapping[str, Any]) -> str:
    """The id of a branch; the same for the same request. Raises UserError when it is too long."""
    name = f"{parent}-b-{position}-{rollout.author[0]}-{rollout.sample}-{_digest(request)}"
    if len(name) > MAX_ID:
        raise UserError(
            f"branches are nested too deeply: the id would have {len(name)} characters (at most "
            f"{MAX_ID}); branch from one of its parents instead",
            where="rollout",
        )
    return name


def reply_id(run_id: str, request: Mapping[str, Any]) -> str:
    """The id of a kept reply of a chat."""
    return f"roll-{run_id.removeprefix('run-')}-chat-{_digest(request)}"


def store_rollouts(
    engine: Engine,
    run_id: str,
    rollouts: Mapping[str, Rollout],
    tokenizer: str,
    vocabulary: VocabularySource,
) -> None:
    """Stores rollouts under their ids, replacing what an equal request stored before.

    The run may be training meanwhile: its lease is not needed. Raises "not found" where it was
    deleted. `tokenizer` is the fingerprint of the models'.
    """
    listed = list(rollouts.values())
    maker = RowMaker(run_id, hot_tokens=0)
    rows = maker.rows(listed)
    for name, row, record in zip(rollouts, rows.rollouts, rows.records, strict=True):
        row["id"] = record["rollout_id"] = name
    with read(engine) as connection:
        of_run = run_row(connection, run_id)["tokenizer"] or run_id
    if of_run != tokenizer:
        raise UserError(
            "the models' tokenizer differs from the one that the run was stored with; its tokens "
            "would be misread",
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


def _digest(request: Mapping[str, Any]) -> str:
    text = json.dumps(request, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
