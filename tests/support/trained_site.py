"""A data directory to inspect: a real small run with its models, and runs made up for a question,
served by the real server and supervisor."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from app.worker.job import claim, run
from opd.config.run import parse
from opd.types import EvaluationEvent, Score
from storage.data_dir import DataDir
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, read_tokens
from tests.support import records_with_fault, stored_runs
from tests.support.databases.matrix import environment, new_database

VIEW = "view"
SMALL = {
    "name": "small",
    "device": "cpu",
    "steps": 2,
    "threads": 1,
    "prompts": {"count": 24, "probe": 2},
    "sampling": {"prompts_per_step": 6, "group_size": 2, "max_new_tokens": 64},
    "evaluation": {"prompts": 4, "keep": 4, "every": 1},
}
FLAT = {"same_top": 0.5, "reverse_kl": 1.2}
CLIMBS = {"quick": (0.3, 0.85, 0.9), "slow": (0.3, 0.5, 0.7, 0.75, 0.9)}  # every second step


@dataclass(frozen=True)
class TrainedSite:
    """`run_id` is the real run; `flat` never agrees; `quick` and `slow` reach 80% in the end."""

    engine: Engine
    link: str  # with the token that may write
    run_id: str
    flat: str
    quick: str
    slow: str

    @property
    def address(self) -> str:
        return self.link.partition("/?")[0]

    def rollouts(self, **filters: Any) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = read_rollouts(self.engine, self.run_id, limit=200, **filters)[
            "items"
        ]
        return items

    def columns(self, rollout_id: str) -> dict[str, np.ndarray]:
        names = (*MAIN_COLUMNS, *EXTRA_COLUMNS)
        return read_tokens(self.engine, rollout_id, names).columns


@contextmanager
def serving(folder: Path) -> Iterator[TrainedSite]:
    """Trains and makes up the runs in `folder`, and serves them with a supervisor."""
    engine = new_database(folder)
    run_id = jobs.create_run(engine, parse(SMALL))
    job = claim(engine, DataDir(folder), run_id, "cpu")
    assert job is not None
    assert run(job).status == "finished"
    flat = records_with_fault.run(engine, metrics=lambda step: FLAT, name="flat")
    jobs.finish(engine, flat, 1, "finished")
    quick, slow = (_climb(engine, name, scores) for name, scores in CLIMBS.items())
    try:
        with server(folder, "--view-token", VIEW) as link:
            yield TrainedSite(engine, link, run_id, flat, quick, slow)
    finally:
        engine.dispose()


def _climb(engine: Engine, name: str, scores: Sequence[float]) -> str:
    run_id, writer = stored_runs.started(engine, name, name=name, steps=2 * len(scores) - 2)
    for step in range(2 * len(scores) - 1):
        if step:
            writer.step(stored_runs.step_event(step), stored_runs.texts)
        if step % 2 == 0:
            score = Score("held-out", "pass@1", scores[step // 2], 200, 0.03)
            writer.evaluation(EvaluationEvent(step, [score]), stored_runs.texts)
    jobs.finish(engine, run_id, 1, "finished")
    return run_id


@contextmanager
def server(folder: Path, *options: str) -> Iterator[str]:
    """The link that `opd serve` prints; it must stop cleanly by SIGTERM."""
    command = (sys.executable, "-m", "app.cli.main", "serve", "--port", "0", *options)
    process = subprocess.Popen(
        [*command, "--data-dir", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environment(folder),
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        with process.stdout:
            process.stdout.read()
        assert process.wait(timeout=300) == 0


def enter(page: Any, link: str) -> None:
    """Takes the link's cookie as soon as the port accepts."""
    for _ in range(3000):
        try:
            page.request.get(link)
            break
        except Exception as error:
            if "ECONNREFUSED" not in str(error):
                raise
            page.wait_for_timeout(100)


@contextmanager
def visiting(chromium: Any, link: str) -> Iterator[Any]:
    """A page that holds the link's cookie; at the end nothing may be on its console."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    enter(page, link)
    yield page
    context.close()
    assert faults == []
