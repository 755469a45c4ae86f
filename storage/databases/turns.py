"""Turns among writers of one kind, where they do not wait for each other anyway."""

import hashlib

from sqlalchemy import Connection, func, select, text


def take_turn(connection: Connection, key: str, *, patient: bool = False) -> None:
    """Waits until no other transaction has this turn, and has it until the transaction's end.

    patient: as long as that takes. SQLite's writers take turns from their start on.
    """
    if connection.dialect.name == "sqlite":
        return
    if patient:
        connection.execute(text("SET LOCAL lock_timeout = 0"))
    digest = hashlib.blake2b(f"opd-studio {key}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, signed=True)
    connection.execute(select(func.pg_advisory_xact_lock(number)))
