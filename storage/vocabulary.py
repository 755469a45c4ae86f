"""Token id → bytes, by the fingerprint of the tokenizer."""

from collections.abc import Callable, Collection, Iterable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, delete, or_, select

from storage.databases.turns import take_turn
from storage.engine import read
from storage.lookups import in_chunks
from storage.schema import run, vocabulary
from storage.text import token_text

Texts = dict[int, tuple[bytes, bool]]  # id → (bytes, special)
MAX_CACHED = 16  # tokenizers

# What is stored never changes, and the next rollout has mostly the same words.
_cached: WeakKeyDictionary[Engine, dict[str, Texts]] = WeakKeyDictionary()


class Vocabulary:
    """Knows which ids of one tokenizer are stored, and so which have to be asked for."""

    def __init__(self, engine: Engine, fingerprint: str) -> None:
        self._fingerprint = fingerprint
        with read(engine) as connection:
            ids = connection.scalars(
                select(vocabulary.c.id).where(vocabulary.c.fingerprint == fingerprint)
            )
            self._stored_ids = np.fromiter(ids, np.int64)

    def missing(self, ids: NDArray[np.int64], source: Callable[[Collection[int]], Texts]) -> Texts:
        """The texts of those ids that are not stored yet; `source` is asked for nothing else."""
        new = ids[~np.isin(ids, self._stored_ids)].tolist()
        return dict(source(new)) if new else {}

    def rows(self, connection: Connection, texts: Texts) -> list[dict[str, Any]]:
        """Rows to insert: another run with the same tokenizer may have been first with some."""
        if not texts:
            return []
        take_vocabulary_turn(connection, self._fingerprint)
        stored = stored_texts(connection, self._fingerprint, texts)
        return [
            {"fingerprint": self._fingerprint, "id": i, "bytes": data, "special": special}
            for i, (data, special) in texts.items()
            if i not in stored
        ]

    def learnt(self, texts: Texts) -> None:
        """To be called once the rows are committed."""
        self._stored_ids = np.append(self._stored_ids, np.fromiter(texts, np.int64))


def take_vocabulary_turn(connection: Connection, fingerprint: str) -> None:
    """Until the transaction's end nobody else stores or forgets texts of this tokenizer."""
    take_turn(connection, f"vocabulary {fingerprint}")


def forget_texts(connection: Connection, fingerprint: str) -> None:
    """Deletes a tokenizer's texts where no run is stored with it."""
    take_vocabulary_turn(connection, fingerprint)
    users = select(run.c.id).where(or_(run.c.tokenizer == fingerprint, run.c.id == fingerprint))
    if connection.execute(users.limit(1)).first() is None:
        connection.execute(delete(vocabulary).where(vocabulary.c.fingerprint == fingerprint))


def stored_texts(connection: Connection, fingerprint: str, ids: Iterable[int]) -> Texts:
    """The stored ones of `ids`."""
    texts: Texts = {}
    for chunk in in_chunks(list(ids)):
        rows = connection.execute(
            select(vocabulary.c.id, vocabulary.c.bytes, vocabulary.c.special).where(
                vocabulary.c.fingerprint == fingerprint, vocabulary.c.id.in_(chunk)
            )
        )
        texts.update({i: (data, special) for i, data, special in rows})
    return texts


def read_texts(connection: Connection, fingerprint: str, ids: Collection[int]) -> Texts:
    """As `stored_texts`, remembering what it finds; only for connections that do not write."""
    tokenizers = _cached.setdefault(connection.engine, {})
    if len(tokenizers) > MAX_CACHED:
        tokenizers.clear()
    cached = tokenizers.setdefault(fingerprint, {})
    missing = [i for i in ids if i not in cached]
    if missing:
        cached.update(stored_texts(connection, fingerprint, missing))
    return {i: cached[i] for i in ids if i in cached}


def text_of(token_id: int, texts: Texts) -> str:
    """The text of one token by itself; an unknown one as ⟨id⟩."""
    return token_text(texts[token_id][0]) if token_id in texts else f"⟨{token_id}⟩"
