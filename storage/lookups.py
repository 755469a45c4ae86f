"""What several queries share: which runs are shown, one row by its id, ids, bounds of a page."""

import hashlib
import secrets
import string
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, func, select

from opd.errors import ErrorKind, UserError
from storage.schema import prompt, rollout, run, teacher_prompt

MAX_LIMIT = 10_000


def not_found(name: str) -> UserError:
    return UserError("no such run or rollout", where=name, kind=ErrorKind.NOT_FOUND)


def shown() -> list[ColumnElement[bool]]:
    """Neither deleted nor an import that is not whole yet."""
    return [run.c.deleted_at.is_(None), ~run.c.hidden]


def run_row(connection: Connection, run_id: str) -> RowMapping:
    """Raises UserError of kind "not found". In a transaction that writes, nobody else changes the
    row until its end."""
    query = select(run).where(run.c.id == run_id, *shown())
    if connection.get_execution_options().get("opd_writes"):
        query = query.with_for_update(key_share=True)
    return _only(connection.execute(query).mappings().first(), run_id)


def rollout_row(connection: Connection, rollout_id: str) -> RowMapping:
    """The rollout with its prompt and what is needed of its run. Raises "not found"."""
    of_run = [
        run.c[name].label(f"run_{name}")
        for name in ("name", "source", "config", "tokenizer", "scales")
    ]
    of_prompt = [prompt.c.text.label("prompt"), prompt.c.ids.label("prompt_ids"), prompt.c.answer]
    rows = connection.execute(
        select(rollout, teacher_prompt.c.text.label("teacher_prompt"), *of_prompt, *of_run)
        .join(prompt, prompt.c.id == rollout.c.prompt_id)
        .outerjoin(teacher_prompt, teacher_prompt.c.id == rollout.c.teacher_prompt_id)
        .join(run, run.c.id == rollout.c.run_id)
        .where(rollout.c.id == rollout_id, *shown())
    )
    return _only(rows.mappings().first(), rollout_id)


def version_of(connection: Connection, run_id: str) -> tuple[Any, ...]:
    """Changes whenever records, steps or scores of the run do. Raises "not found"."""
    row = run_row(connection, run_id)
    count = connection.scalar(
        select(func.count()).select_from(rollout).where(rollout.c.run_id == run_id)
    )
    return (*(row[name] for name in ("attempt", "status", "step", "bytes", "score")), count)


def new_id(prefix: str) -> str:
    """`run-…`, `exp-…`: eight letters and digits at random."""
    letters = string.ascii_lowercase + string.digits
    return f"{prefix}-" + "".join(secrets.choice(letters) for _ in range(8))


def prompt_id(run_id: str, text: str, answer: str | None, ids: bytes) -> str:
    """The id of a prompt within a run; `ids` as they are stored."""
    digest = hashlib.blake2b(digest_size=12)
    for part in (run_id.encode(), text.encode(), repr(answer).encode(), ids):
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"prompt-{digest.hexdigest()}"


def in_chunks(values: Collection[Any], size: int = 500) -> Iterable[list[Any]]:
    """Pieces that fit into one statement's parameters."""
    listed = list(values)
    return (listed[start : start + size] for start in range(0, len(listed), size))


def page_limit(limit: int) -> int:
    if not 0 <= limit <= MAX_LIMIT:
        raise UserError(f"must be 0 to {MAX_LIMIT} (got {limit})", where="limit")
    return limit


def page_offset(offset: int) -> int:
    if not 0 <= offset < 2**62:
        raise UserError(f"must be 0 or more (got {offset})", where="offset")
    return offset


def fingerprint(row: Any) -> str:
    """Under which name the token texts of a rollout_row's run are stored."""
    return str(row["run_tokenizer"] or row["run_id"])


def run_fingerprint(row: Any) -> str:
    """As `fingerprint`, of a run_row."""
    return str(row["tokenizer"] or row["id"])


def _only(row: RowMapping | None, name: str) -> RowMapping:
    if row is None:
        raise not_found(name)
    return row
