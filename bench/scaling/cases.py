"""Small steps that are measured on this machine: the product's own seconds by phase.

Every case is a run of the bundled pair on one thread a process, whose learning rate is too small to
change how long completions are. Of a step that several runs of one case repeat (the same prompts,
samples and lengths) the quickest of each phase counts: other work only ever makes it slower.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select

from opd.config.drafts.short_forms import with_overrides
from opd.config.run import RunConfig, parse
from storage import schema
from storage.engine import open_database, read
from storage.read.runs import read_steps

STEPS = 7  # the first one warms up
PHASES = ("sample", "teacher", "student", "optimizer", "store")
BASE: Mapping[str, Any] = {
    "steps": STEPS,
    "threads": 1,
    "device": "cpu",
    "prompts.probe": 0,
    "optimizer.learning_rate": 1e-7,
    "sampling.batch_size": 128,
    "sampling.max_new_tokens": 64,
    "records.rollouts_per_step": 1000,
    "evaluation.prompts": 1,
    "evaluation.temperatures": [0],
    "evaluation.keep": 0,
    "evaluation.teacher": False,
}


@dataclass(frozen=True)
class SmallCase:
    """`beside`: None, or the lag of a sampler in a process of its own."""

    name: str
    settings: Mapping[str, Any]
    fits: bool = False  # its figures set the rates; else they are predicted
    beside: int | None = None

    @property
    def whole(self) -> dict[str, Any]:
        return {**BASE, **self.settings}


def _sized(prompts: int, group: int, **more: Any) -> dict[str, Any]:
    return {
        "sampling.prompts_per_step": prompts,
        "sampling.group_size": group,
        **{name.replace("__", "."): value for name, value in more.items()},
    }


CASES = (
    SmallCase("32 × 4", _sized(32, 4), fits=True),
    SmallCase("8 × 4", _sized(8, 4), fits=True),
    SmallCase("32 × 1", _sized(32, 1), fits=True),
    SmallCase("64 × 4, two batches", _sized(64, 4)),
    SmallCase("16 × 4, at most 24 tokens", _sized(16, 4, sampling__max_new_tokens=24)),
    SmallCase("128 × 1", _sized(128, 1)),
    SmallCase("4 × 2", _sized(4, 2)),
    SmallCase("32 × 4, no top-k", _sized(32, 4, records__top_k=0)),
    SmallCase("32 × 4, student of 66k parameters", _sized(32, 4, student__model="bundled/small")),
    SmallCase("32 × 4, two processes", _sized(32, 4, devices=2)),
    SmallCase("64 × 4, two processes", _sized(64, 4, devices=2)),
    SmallCase("32 × 4, two processes, sharded", _sized(32, 4, devices=2, sharding="full")),
    SmallCase("32 × 4, sampler apart", _sized(32, 4), beside=0),
    SmallCase("32 × 4, sampler apart, lag 1", _sized(32, 4), beside=1),
)


@dataclass(frozen=True)
class MeasuredStep:
    seconds: Mapping[str, float]  # by phase
    whole: float  # from the end of the step before to the end of this one
    prompts: Sequence[int]  # tokens of each prompt
    completions: Sequence[int]  # tokens of each completion

    def quickest(self, other: "MeasuredStep") -> "MeasuredStep":
        """Of two measurements of the same step. Raises ValueError where they are not."""
        if self.completions != other.completions:
            raise ValueError("the same step has other completions: what is compared has changed")
        seconds = {name: min(s, other.seconds[name]) for name, s in self.seconds.items()}
        return MeasuredStep(seconds, min(self.whole, other.whole), self.prompts, self.completions)


def measure(case: SmallCase) -> list[MeasuredStep]:
    """The steps of one run, without the first."""
    with tempfile.TemporaryDirectory() as folder:
        return _beside(case) if case.beside is not None else _trained(case, Path(folder))


def _trained(case: SmallCase, folder: Path) -> list[MeasuredStep]:
    chosen = [f"--set={assignment}" for assignment in _assignments(case.whole)]
    command = ("app.cli.main", "train", "demo", "--json", "--data-dir", str(folder), *chosen)
    return list(_stored(folder, _answer(case, *command)["run_id"]))


def _answer(case: SmallCase, *module: str) -> Any:
    """The JSON that a module prints last, on one thread."""
    done = subprocess.run(
        [sys.executable, "-m", *module],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"{case.name}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _stored(folder: Path, run_id: str) -> Iterator[MeasuredStep]:
    engine = open_database(folder)
    columns = read_steps(engine, run_id)["columns"]
    rollout, prompt = schema.rollout.c, schema.prompt.c
    query = (
        select(rollout.step, rollout.group, rollout.tokens, prompt.ids)
        .join(schema.prompt, prompt.id == rollout.prompt_id)
        .where(rollout.run_id == run_id, rollout.kind == "train")
        .order_by(rollout.step, rollout.group, rollout.sample)
    )
    with read(engine) as connection:
        rows = connection.execute(query).all()
    engine.dispose()
    ends = columns["created_at"]
    for i, step in enumerate(columns["step"][1:], start=1):
        mine = [row for row in rows if row.step == step]
        prompts = {row.group: len(row.ids) // 4 for row in mine}
        yield MeasuredStep(
            {name: columns[f"seconds_{name}"][i] for name in PHASES},
            ends[i] - ends[i - 1],
            list(prompts.values()),
            [row.tokens for row in mine],
        )


def _beside(case: SmallCase) -> list[MeasuredStep]:
    steps = _answer(case, "bench.scaling.beside", str(case.beside), json.dumps(case.whole))
    return [MeasuredStep(**step) for step in steps]


def nested(settings: Mapping[str, Any]) -> RunConfig:
    """The configuration that `--set` would make of settings by their paths."""
    return parse(with_overrides({}, _assignments(settings)))


def _assignments(settings: Mapping[str, Any]) -> list[str]:
    return [f"{path}={json.dumps(value)}" for path, value in settings.items()]


def measure_all(cases: Sequence[SmallCase], rounds: int) -> dict[str, list[dict[str, Any]]]:
    """By case, its steps; rounds take turns, so that a busy minute meets all cases alike."""
    quickest: dict[str, list[MeasuredStep]] = {}
    for _ in range(rounds):
        for case in cases:
            steps = measure(case)
            before = quickest.get(case.name, steps)
            quickest[case.name] = [a.quickest(b) for a, b in zip(before, steps, strict=True)]
            total = np.median([s.whole for s in quickest[case.name]])
            print(f"{case.name}: {total:.3f} s a step", flush=True)
    return {name: [asdict(step) for step in steps] for name, steps in quickest.items()}
