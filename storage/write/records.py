"""The write side of telemetry: one transaction a training step, one writer a run."""

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, delete, func, insert, select, update

from opd.types import (
    CheckpointEvent,
    EvaluationEvent,
    ModelsEvent,
    PromptsEvent,
    Rollout,
    StepEvent,
)
from storage import clock, schema
from storage.engine import begin, read
from storage.lookups import not_found
from storage.packing import finite
from storage.queue.jobs import hold
from storage.text import clean
from storage.vocabulary import Vocabulary, take_vocabulary_turn
from storage.write.figures import extended, score_values, step_values, stored_figures
from storage.write.insert import insert_rows
from storage.write.rows import (
    RowMaker,
    Rows,
    distinct_ids,
    finite_values,
    raise_scales,
)

VocabularySource = Callable[[Collection[int]], dict[int, tuple[bytes, bool]]]
STEP_KINDS = ("train",)
EVALUATION_KINDS = ("eval", "probe")
MAIN_METRIC = "pass@1"


class RunWriter:
    """Stores what one attempt at a run reports; raises LeaseLost once it is no longer the run's.

    `vocabulary` is asked for the bytes of those token ids that the database does not know yet.
    """

    def __init__(self, engine: Engine, run_id: str, attempt: int) -> None:
        self._engine = engine
        self._run_id = run_id
        self._attempt = attempt
        self._truncate_after: int | None = None
        self._commit_seconds = 0.0
        with read(engine) as connection:
            row = connection.execute(select(schema.run).where(schema.run.c.id == run_id)).mappings()
            stored = row.first()
        if stored is None:
            raise not_found(run_id)
        self._config: dict[str, Any] = stored["config"]
        self._scales: dict[str, float] = dict(stored["scales"])
        self._figures: dict[str, list[float | None]] = dict(stored["figures"])
        self._vocabulary = Vocabulary(engine, stored["tokenizer"] or run_id)
        self._share = _share(self._config)

    def models(self, event: ModelsEvent, versions: Mapping[str, str]) -> None:
        """What was loaded, and with which versions of the libraries."""
        with begin(self._engine) as connection:
            hold(connection, self._run_id, self._attempt)
            take_vocabulary_turn(connection, event.tokenizer or self._run_id)
            self._update_run(
                connection,
                resolved=dict(event.resolved),
                tokenizer=event.tokenizer,
                loaded_device=event.device,
                parameters=dict(event.parameters),
                versions=dict(versions),
            )
        self._vocabulary = Vocabulary(self._engine, event.tokenizer or self._run_id)

    def prompts(self, event: PromptsEvent) -> None:
        """How many prompts each evaluation has, and why fewer than were asked for."""
        with begin(self._engine) as connection:
            hold(connection, self._run_id, self._attempt)
            counts = [asdict(count) for count in event.evaluation]
            self._update_run(connection, evaluation_prompts=counts)

    def truncate_after(self, step: int) -> None:
        """For resuming: records of later steps go in the transaction of the first new ones."""
        self._truncate_after = step

    def step(self, event: StepEvent, vocabulary: VocabularySource) -> float:
        """Stores a step with its rollouts, in place of an earlier record of the same step.

        Returns the seconds it took. The step's own "store" seconds are those of packing and
        inserting it and of the commit before, because its own commit is not over yet.
        """
        start = time.perf_counter()
        rows = self._rows(event.rollouts)
        texts = self._vocabulary.missing(distinct_ids(event.rollouts), vocabulary)
        with self._transaction() as connection:
            if _exists(connection, schema.step, self._run_id, event.step):
                self._drop_step(connection, event.step)
            insert_rows(connection, rows, self._vocabulary.rows(connection, texts))
            elapsed = time.perf_counter() - start
            values = self._insert_step(connection, event, elapsed + self._commit_seconds)
            run = schema.run.c
            self._update_run(
                connection,
                step=event.step,
                kl=finite(event.metrics.get("reverse_kl")),
                tokens=run.tokens + event.tokens,
                flops=run.flops + event.flops,
                bytes=run.bytes + rows.bytes,
                scales=self._raised(rows),
                figures=self._extended(values),
            )
            commit_start = time.perf_counter()
        end = time.perf_counter()
        self._vocabulary.learnt(texts)
        self._commit_seconds = end - commit_start
        return end - start

    def evaluation(self, event: EvaluationEvent, vocabulary: VocabularySource) -> None:
        """Stores an evaluation, in place of an earlier one after the same step."""
        rows = self._rows(event.rollouts)
        texts = self._vocabulary.missing(distinct_ids(event.rollouts), vocabulary)
        with self._transaction() as connection:
            self._drop_evaluation(connection, event.step)
            insert_rows(connection, rows, self._vocabulary.rows(connection, texts))
            scores = self._scores(event)
            if scores:
                connection.execute(insert(schema.evaluation), scores)
            self._update_run(
                connection,
                bytes=schema.run.c.bytes + rows.bytes,
                scales=self._raised(rows),
                figures=self._extended(score_values(scores)),
                **_score(connection, self._run_id),
            )
        self._vocabulary.learnt(texts)

    def checkpoint(self, event: CheckpointEvent) -> None:
        """Stores where a checkpoint lies, and forgets those that do not stay beside it."""
        table = schema.checkpoint
        key = {"run_id": self._run_id, "step": event.step}
        with self._transaction() as connection:
            stay = [s for s in event.keeps if s != event.step]
            connection.execute(
                delete(table).where(table.c.run_id == self._run_id, table.c.step.not_in(stay))
            )
            values = {"path": event.path, "manifest": dict(event.manifest)}
            connection.execute(
                insert(table).values(**key, **values, created_at=clock.now(connection))
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Connection]:
        with begin(self._engine) as connection:
            hold(connection, self._run_id, self._attempt)
            if self._truncate_after is not None:
                self._truncate(connection, self._truncate_after)
            yield connection
        self._truncate_after = None

    def _rows(self, rollouts: Collection[Rollout]) -> Rows:
        # A maker of its own for every event: ids depend on nothing that came before.
        maker = RowMaker(self._run_id, self._config["records"]["hot_tokens"])
        return maker.rows(rollouts, self._share)

    def _raised(self, rows: Rows) -> dict[str, float]:
        raise_scales(self._scales, rows.scales)
        return dict(sorted(self._scales.items()))

    def _extended(self, values: Mapping[str, float | None]) -> dict[str, list[float | None]]:
        self._figures = extended(self._figures, values)
        return self._figures

    def _insert_step(
        self, connection: Connection, event: StepEvent, store: float
    ) -> dict[str, float | None]:
        """Its values as figures of the run are called."""
        seconds = {**finite_values(event.seconds), "store": store}
        metrics = finite_values(event.metrics)
        connection.execute(
            insert(schema.step).values(
                run_id=self._run_id,
                step=event.step,
                attempt=self._attempt,
                created_at=clock.now(connection),
                tokens=event.tokens,
                flops=event.flops,
                seconds=seconds,
                metrics=metrics,
            )
        )
        return step_values(metrics, seconds)

    def _scores(self, event: EvaluationEvent) -> list[dict[str, Any]]:
        return [
            {
                "run_id": self._run_id,
                "step": event.step,
                "number": number,
                "suite": clean(score.suite),
                "metric": clean(score.metric),
                "value": finite(score.value),
                "n": score.n,
                "standard_error": finite(score.standard_error),
            }
            for number, score in enumerate(event.scores)
        ]

    def _update_run(self, connection: Connection, **values: Any) -> None:
        connection.execute(
            update(schema.run).where(schema.run.c.id == self._run_id).values(**values)
        )

    def _drop_step(self, connection: Connection, step: int) -> None:
        rollout, steps = schema.rollout.c, schema.step.c
        connection.execute(
            delete(schema.rollout).where(
                rollout.run_id == self._run_id, rollout.step == step, rollout.kind.in_(STEP_KINDS)
            )
        )
        connection.execute(
            delete(schema.step).where(steps.run_id == self._run_id, steps.step == step)
        )
        self._figures = stored_figures(connection, self._run_id)
        self._update_run(connection, **_sums(connection, self._run_id))

    def _drop_evaluation(self, connection: Connection, step: int) -> None:
        rollout, evaluation = schema.rollout.c, schema.evaluation.c
        dropped = connection.execute(
            delete(schema.rollout).where(
                rollout.run_id == self._run_id,
                rollout.step == step,
                rollout.kind.in_(EVALUATION_KINDS),
            )
        ).rowcount
        scores = connection.execute(
            delete(schema.evaluation).where(
                evaluation.run_id == self._run_id, evaluation.step == step
            )
        ).rowcount
        if scores:
            self._figures = stored_figures(connection, self._run_id)
        if dropped:
            self._update_run(connection, **_sums(connection, self._run_id))

    def _truncate(self, connection: Connection, step: int) -> None:
        rollout = schema.rollout.c
        connection.execute(
            delete(schema.rollout).where(
                rollout.run_id == self._run_id,
                rollout.step > step,
                rollout.kind.in_((*STEP_KINDS, *EVALUATION_KINDS)),
            )
        )
        for table in (schema.step, schema.evaluation, schema.checkpoint):
            connection.execute(
                delete(table).where(table.c.run_id == self._run_id, table.c.step > step)
            )
        self._figures = stored_figures(connection, self._run_id)
        self._update_run(
            connection, **_sums(connection, self._run_id), **_score(connection, self._run_id)
        )


def forget_checkpoints(engine: Engine, run_id: str) -> None:
    """For a run whose checkpoints are about to be removed."""
    with begin(engine) as connection:
        connection.execute(delete(schema.checkpoint).where(schema.checkpoint.c.run_id == run_id))


def _share(config: Mapping[str, Any]) -> float:
    """Bytes that each recorded step and evaluation may keep of the run's budget.

    Every one has the same share, so that a resumed run keeps what an uninterrupted one does."""
    every = config["evaluation"]["every"]
    evaluations = 2 + (config["steps"] // every if every else 0)
    recorded = math.ceil(config["steps"] / config["records"]["every"])
    return float(config["records"]["budget_mb"] * 1e6 / (recorded + evaluations))


def _exists(connection: Connection, table: Any, run_id: str, step: int) -> bool:
    query = select(table.c.step).where(table.c.run_id == run_id, table.c.step == step).limit(1)
    return connection.execute(query).first() is not None


def _sums(connection: Connection, run_id: str) -> dict[str, Any]:
    """The run's summary over the steps that are left."""
    step, rollout = schema.step.c, schema.rollout.c
    tokens, flops = connection.execute(
        select(func.sum(step.tokens), func.sum(step.flops)).where(step.run_id == run_id)
    ).one()
    kept = connection.scalar(select(func.sum(rollout.bytes)).where(rollout.run_id == run_id))
    last = connection.execute(
        select(step.step, step.metrics)
        .where(step.run_id == run_id)
        .order_by(step.step.desc())
        .limit(1)
    ).first()
    return {
        "tokens": tokens or 0,
        "flops": flops or 0.0,
        "bytes": kept or 0,
        "step": last.step if last else 0,
        "kl": last.metrics.get("reverse_kl") if last else None,
    }


def _score(connection: Connection, run_id: str) -> dict[str, Any]:
    """First and last pass@1 of the suite that the evaluations name first."""
    table = schema.evaluation.c
    rows = connection.execute(
        select(table.suite, table.value)
        .where(table.run_id == run_id, table.metric == MAIN_METRIC)
        .order_by(table.step, table.number)
    ).all()
    values = [row.value for row in rows if row.suite == rows[0].suite]
    return {
        "score_suite": rows[0].suite if rows else None,
        "score_start": values[0] if rows else None,
        "score": values[-1] if rows else None,
    }
