"""A run's figures in short are those of its steps and evaluations, whatever became of them."""

import math
from typing import Any

from sqlalchemy import Engine, select

from opd.types import StepEvent
from storage import schema
from storage.engine import read
from storage.queue import jobs
from storage.write.figures import Figures, extended, stored_figures
from storage.write.records import RunWriter
from tests.support import stored_runs


def kept(engine: Engine, run_id: str) -> Any:
    with read(engine) as connection:
        return connection.scalar(select(schema.run.c.figures).where(schema.run.c.id == run_id))


def recounted(engine: Engine, run_id: str) -> Figures:
    with read(engine) as connection:
        return stored_figures(connection, run_id)


def test_last_lowest_and_highest() -> None:
    figures = extended({}, {"a": 2.0, "b": None})
    assert figures == {"a": [2.0, 2.0, 2.0], "b": [None, None, None]}
    figures = extended(extended(figures, {"a": 1.0}), {"a": 3.0, "b": 5.0})
    assert figures == {"a": [3.0, 1.0, 3.0], "b": [5.0, 5.0, 5.0]}
    assert extended(figures, {"a": None})["a"] == [None, 1.0, 3.0]
    assert extended(figures, {"c": 0.0})["a"] == [3.0, 1.0, 3.0]


def test_they_follow_steps_evaluations_and_what_replaces_them(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine, steps=10)
    writer.evaluation(stored_runs.evaluation_event(0, 0.5), stored_runs.texts)
    for step, loss in ((1, 9.0), (2, math.nan), (3, 4.0)):
        writer.step(stored_runs.step_event(step, loss=loss), stored_runs.texts)
    assert kept(engine, run_id)["loss"] == [4.0, 4.0, 9.0]
    assert kept(engine, run_id)["reverse_kl"] == [1 / 3, 1 / 3, 1.0]
    assert kept(engine, run_id)["seconds_sample"] == [0.5, 0.5, 0.5]
    writer.evaluation(stored_runs.evaluation_event(3, 0.25), stored_runs.texts)
    assert kept(engine, run_id)["eval/held-out/pass@1"] == [0.25, 0.25, 0.5]
    assert kept(engine, run_id) == recounted(engine, run_id)
    writer.step(stored_runs.step_event(3, loss=20.0), stored_runs.texts)
    assert kept(engine, run_id)["loss"] == [20.0, 9.0, 20.0]
    writer.evaluation(stored_runs.evaluation_event(0, 1.0), stored_runs.texts)
    assert kept(engine, run_id)["eval/held-out/pass@1"][1:] == [0.25, 1.0]


def test_an_attempt_that_goes_on_earlier_drops_the_later_ones(engine: Engine) -> None:
    run_id, writer = stored_runs.started(engine, steps=10)
    for step, loss in ((1, 1.0), (2, 7.0)):
        writer.step(stored_runs.step_event(step, loss=loss), stored_runs.texts)
    assert jobs.finish(engine, run_id, 1, "interrupted")
    jobs.requeue(engine, run_id)
    attempt = jobs.claim(engine, run_id, "cpu", stored_runs.OWNER)
    assert attempt == 2
    second = RunWriter(engine, run_id, attempt)
    second.truncate_after(1)
    second.step(StepEvent(2, {}, 1, 1.0, {"loss": 3.0}, []), stored_runs.texts)
    assert kept(engine, run_id)["loss"] == [3.0, 1.0, 3.0]
    assert kept(engine, run_id) == recounted(engine, run_id)
