"""Token records from elsewhere become a run, which is seen only once it is whole."""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Engine, select, update

from opd.types import Rollout
from storage import schema
from storage.engine import begin
from storage.marks.edit import insert_marks
from storage.queue import run_details
from storage.text import clean
from storage.vocabulary import Texts, Vocabulary
from storage.write.insert import insert_rows
from storage.write.rows import RowMaker, Rows, distinct_ids, raise_scales

CHUNK = 64  # rollouts a transaction
VocabularySource = Callable[[Collection[int]], Texts]


def import_rollouts(
    engine: Engine,
    run_id: str,
    rollouts: Iterable[Rollout],
    vocabulary: VocabularySource | None = None,
) -> int:
    """Fills a run made with `create_run(source="import")` and shows it; returns their number.

    All or nothing: when `rollouts` raises, or this process dies, nothing of the run is shown.
    Without `vocabulary`, token texts come from the rollouts' own `prompt_tokens` and
    `completion_tokens`, as far as they have them.
    """
    importer = _Import(engine, run_id, vocabulary)
    whole = False
    try:
        source = iter(rollouts)
        while chunk := list(itertools.islice(source, CHUNK)):
            importer.add(chunk)
        importer.show()
        whole = True
    finally:
        if not whole:
            with begin(engine) as connection:
                run_details.remove(connection, run_id)
    return importer.count


class _Import:
    def __init__(self, engine: Engine, run_id: str, source: VocabularySource | None) -> None:
        self.count = 0
        self._engine = engine
        self._run_id = run_id
        self._fingerprint = f"import:{run_id}"
        self._source = source or (lambda ids: {})
        self._vocabulary = Vocabulary(engine, self._fingerprint)
        self._imported: dict[int, bytes] = {}  # the first text that a rollout gave for an id
        self._scales: dict[str, float] = {}
        self._sums = {"tokens": 0, "bytes": 0, "step": 0}
        self._kl = [0.0, 0.0]  # sum, and over how many tokens
        with begin(engine) as connection:
            config: dict[str, Any] = connection.execute(
                select(schema.run.c.config).where(schema.run.c.id == run_id)
            ).scalar_one()
        self._maker = RowMaker(run_id, config["records"]["hot_tokens"])

    def add(self, rollouts: Sequence[Rollout]) -> None:
        rows = self._maker.rows(rollouts)
        for row, rollout in zip(rows.rollouts, rollouts, strict=True):
            row["texts"] = self._contradicting(rollout)
        texts = self._vocabulary.missing(distinct_ids(rollouts), self._texts)
        with begin(self._engine) as connection:
            insert_rows(connection, rows, self._vocabulary.rows(connection, texts))
            self._mark(connection, rows, rollouts)
        self._vocabulary.learnt(texts)
        self._count(rows)

    def _mark(self, connection: Connection, rows: Rows, rollouts: Sequence[Rollout]) -> None:
        pairs = [
            ({"rollout_id": row["id"], "completion": row["completion"]}, one)
            for row, rollout in zip(rows.rollouts, rollouts, strict=True)
            for one in rollout.marks
        ]
        if pairs:
            insert_marks(connection, self._run_id, *map(list, zip(*pairs, strict=True)))

    def show(self) -> None:
        total, tokens = self._kl
        with begin(self._engine) as connection:
            connection.execute(
                update(schema.run)
                .where(schema.run.c.id == self._run_id)
                .values(
                    hidden=False,
                    tokenizer=self._fingerprint,
                    scales=dict(sorted(self._scales.items())),
                    kl=total / tokens if tokens else None,
                    steps=self._sums["step"],
                    **self._sums,
                )
            )

    def _contradicting(self, rollout: Rollout) -> dict[str, list[str] | None] | None:
        """The rollout's own texts where an id has another text elsewhere; None where it has not."""
        prompt, completion = rollout.prompt_tokens, rollout.completion_tokens
        pairs = [
            (int(i), clean(text).encode())
            for ids, texts in (
                (rollout.prompt_ids, prompt),
                (rollout.record.completion_ids, completion),
            )
            if texts is not None
            for i, text in zip(ids, texts, strict=True)
        ]
        if all(self._imported.setdefault(i, text) == text for i, text in pairs):
            return None
        return {
            "prompt": None if prompt is None else [clean(text) for text in prompt],
            "completion": None if completion is None else [clean(text) for text in completion],
        }

    def _texts(self, ids: Collection[int]) -> Texts:
        """The file's own for an id, else the first that a rollout gave: of a part of a character,
        a rollout gives the whole character or nothing."""
        imported = {i: (self._imported[i], False) for i in ids if i in self._imported}
        return {**imported, **self._source(ids)}

    def _count(self, rows: Rows) -> None:
        self.count += len(rows.rollouts)
        raise_scales(self._scales, rows.scales)
        self._sums["bytes"] += rows.bytes
        self._kl = [old + new for old, new in zip(self._kl, rows.kl, strict=True)]
        for row in rows.rollouts:
            self._sums["tokens"] += row["tokens"]
            self._sums["step"] = max(self._sums["step"], row["step"])
