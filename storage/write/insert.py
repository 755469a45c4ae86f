"""Inserts the rows of a batch of rollouts inside the caller's transaction."""

from typing import Any

from sqlalchemy import Connection, Table, insert, select

from storage import schema
from storage.lookups import in_chunks
from storage.write.rows import Rows


def insert_rows(connection: Connection, rows: Rows, vocabulary: list[dict[str, Any]]) -> None:
    """Prompts that are new, rollouts, token records, hot tokens and vocabulary."""
    prompts = _new(connection, schema.prompt, rows.prompts)
    teacher_prompts = _new(connection, schema.teacher_prompt, rows.teacher_prompts)
    for table, batch in (
        (schema.prompt, prompts),
        (schema.teacher_prompt, teacher_prompts),
        (schema.rollout, rows.rollouts),
        (schema.token_record, rows.records),
        (schema.hot_token, rows.hot_tokens),
        (schema.vocabulary, vocabulary),
    ):
        if batch:
            connection.execute(insert(table), batch)


def _new(
    connection: Connection, table: Table, rows: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Those of the rows, by id, that the table does not have yet."""
    existing: set[str] = set()
    for ids in in_chunks(rows):
        existing.update(connection.scalars(select(table.c.id).where(table.c.id.in_(ids))))
    return [row for name, row in rows.items() if name not in existing]
