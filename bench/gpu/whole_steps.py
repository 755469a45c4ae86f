"""Whole steps as the product runs them: sampling, teacher, student, optimizer, memory."""

import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu.others import MICRO_BATCH
from bench.gpu.workbench import Figures, Workbench, rates, spread
from bench.support.endless import EndlessTraining
from opd.config.run import RunConfig
from opd.data.prompts import PromptSet
from opd.training.rollouts import Writer
from opd.types import Event, PhaseEvent, StepEvent

LORA = {"rank": 32, "alpha": 64}
BUDGET = 35.0  # seconds of steps for each line of the table


class UnevaluatedTraining(EndlessTraining):
    """Its steps, without the evaluation that comes before the first."""

    def _evaluation(self, writer: Writer, prompts: PromptSet) -> Iterator[Event]:
        yield from ()


def table(bench: Workbench) -> Iterator[Figures]:
    """All weights, then an adapter, in micro-batches as large as the free memory allows."""
    yield from _students(bench)


def compiled(bench: Workbench) -> Iterator[Figures]:
    """The same with what the update computes compiled, for which the first step waits."""
    yield from _students(bench, compiled=True)


def _students(bench: Workbench, *, compiled: bool = False) -> Iterator[Figures]:
    for name, student in (("all weights", {}), ("LoRA", {"lora": LORA})):
        config = bench.config(student=student, optimizer={"compile": compiled})
        yield Figures(f"{name}, compiled" if compiled else name, whole_steps(bench, config))


def as_trl(bench: Workbench) -> Iterator[Figures]:
    """In both of the precisions that TRL is measured in, with its default checkpointing and in
    micro-batches of as many completions."""
    tokens = MICRO_BATCH * (max(map(len, bench.texts())) + bench.work.new)
    for name, student in (
        ("weights and moments in bfloat16", {"weights": bench.dtype}),
        ("weights and moments in float32", {}),
    ):
        config = bench.config(
            student={"gradient_checkpointing": True, **student},
            optimizer={"micro_batch_tokens": tokens},
        )
        yield Figures(f"{name}, checkpointing", whole_steps(bench, config))


def whole_steps(
    bench: Workbench, config: RunConfig, *, times: int | None = None, budget: float = BUDGET
) -> dict[str, Any]:
    """Of `times` steps (the workbench's) after one that warms up; of fewer, one at least, after
    `budget` seconds."""
    times = times or bench.times
    bench.start_peak()
    began = last = time.perf_counter()
    ready, seconds, steps = 0.0, list[float](), list[StepEvent]()
    with tempfile.TemporaryDirectory() as folder:
        events = UnevaluatedTraining(config, Path(folder)).events()
        for event in events:
            if isinstance(event, PhaseEvent) and event.text.startswith("step 1 "):
                bench.wait()
                ready = last = time.perf_counter()
            if isinstance(event, StepEvent):
                bench.wait()
                now = time.perf_counter()
                seconds.append(now - last)
                steps.append(event)
                last = now
                if len(steps) > times or (len(steps) > 1 and now - ready > budget):
                    break
        events.close()  # type: ignore[attr-defined]
    tokens = steps[-1].tokens
    sampling = [step.seconds["sample"] for step in steps[1:]]
    return {
        "step s": spread(seconds[1:]),
        "tokens/s": rates(tokens, seconds[1:]),
        "sampling tokens/s": rates(tokens, sampling),
        **{
            f"{phase} s": statistics.median(step.seconds[phase] for step in steps[1:])
            for phase in steps[-1].seconds
        },
        **bench.memory(config),
        "first step s": seconds[0],
        "loading s": ready - began,
        "sampler gap": steps[-1].metrics.get("sampler_gap"),
    }
