"""Inserts the rows of a batch of rollouts inside the caller's transaction."""

from typing import Any

from sqlalchemy import Connection, insert, select

from storage import schema
from storage.lookups import in_chunks
from storage.write.rows import Rows


def insert_rows(connection: Connection, rows: Rows, vocabulary: list[dict[str, Any]]) -> None:
    """Prompts that are new, rollouts, token records, hot tokens and vocabulary."""
    existing: set[str] = set()
    for ids in in_chunks(rows.prompts):
        existing.update(
            connection.scalars(select(schema.prompt.c.id).where(schema.prompt.c.id.in_(ids)))
        )
    prompts = [row for name, row in rows.prompts.items() if name not in existing]
    for table, batch in (
        (schema.prompt, prompts),
        (schema.rollout, rows.rollouts),
        (schema.token_record, rows.records),
        (schema.hot_token, rows.hot_tokens),
        (schema.vocabulary, vocabulary),
    ):
        if batch:
            connection.execute(insert(table), batch)
