"""What a student of 8B and a teacher of 32B need: memory by the product's own plan, layouts of
8 GPUs by the model, and the simulation of the best ones.

The rates are assumptions, each with its source; none was measured with models of this size here.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.scaling.costs import Engine, Groups, ModelSize, Rates
from bench.scaling.layouts import StepCost, step_cost
from bench.scaling.scenario import Layout, Scenario, tokens_of
from bench.scaling.simulation import SimulatedRun
from opd.config.run import parse
from opd.doctor.memory import estimate
from opd.doctor.memory_parts import Estimate
from opd.models.architecture import PUBLISHED

STUDENT = "Qwen/Qwen3-8B"
TEACHER = "Qwen/Qwen3-32B"
PROMPT, LIMIT = 512, 4096  # tokens
PROMPTS, GROUP = 64, 8
PASS_TOKENS = 16_384
KEPT_BYTES = 241.0  # of a token with both top-8, as measured
WRITTEN = 290e3  # tokens per second into SQLite, likewise
SENT = 2e9  # bytes/s into a file in memory, and again out of it
# H100 SXM: see docs/scaling.md for the source of each.
H100 = Rates(
    decode_flops=0.5 * 989e12,
    read_flops=0.45 * 989e12,
    train_flops=0.35 * 989e12,
    bandwidth=0.8 * 3.03e12,
    token=0.003,
    run=0.02,
    update=0.01,
    link=350e9,
)


@dataclass(frozen=True)
class PlannedLayout:
    """A way to run it; `today`: whether the product does so."""

    name: str
    layout: Layout
    engine: Engine
    today: str


LOCAL = Engine(32)  # the product's own decoder, with the rows that memory has room for
VLLM = Engine(256, continuous=True)
ARMS = (
    PlannedLayout("together, own decoder", Layout(8, sharded=True), LOCAL, "yes"),
    PlannedLayout(
        "sampler 4, trainer and teacher 4, lag 0", Layout(4, 4, sharded=True), VLLM, "no"
    ),
    PlannedLayout(
        "sampler 4, trainer and teacher 4, lag 1", Layout(4, 4, lag=1, sharded=True), VLLM, "no"
    ),
    PlannedLayout(
        "sampler 2, teacher 2, trainer 4, lag 1", Layout(4, 2, 2, 1, sharded=True), VLLM, "no"
    ),
    PlannedLayout(
        "sampler 1, teacher 3, trainer 4, lag 1", Layout(4, 1, 3, 1, sharded=True), VLLM, "no"
    ),
    PlannedLayout(
        "sampler 2, teacher 3, trainer 3, lag 1", Layout(3, 2, 3, 1, sharded=True), VLLM, "no"
    ),
)
MEMORY: dict[str, dict[str, Any]] = {
    "all weights, 1 GPU": {},
    "all weights, 8 GPUs, layers cut": {"devices": 8, "sharding": "full"},
    "all weights, 4 GPUs, layers cut": {"devices": 4, "sharding": "full"},
    "adapter of rank 32, 8 GPUs, layers cut": {
        "devices": 8,
        "sharding": "full",
        "student": {"lora": {"rank": 32}},
    },
    "adapter, teacher in int4, 1 GPU": {
        "student": {"lora": {"rank": 32}},
        "teacher": {"quantize": "int4"},
    },
    "adapter, teacher behind a server, 1 GPU": {
        "student": {"lora": {"rank": 32}},
        "teacher": {"kind": "remote", "url": "http://localhost:8000/v1"},
        "objective": {"name": "teacher_top_k", "top_k": 20},
    },
}


def memory() -> dict[str, Estimate]:
    return {name: _estimate(changes) for name, changes in MEMORY.items()}


def _estimate(changes: dict[str, Any]) -> Estimate:
    given: dict[str, Any] = {
        "device": "cuda",
        "sampling": {
            "prompts_per_step": PROMPTS,
            "group_size": GROUP,
            "max_new_tokens": LIMIT,
            "batch_size": LOCAL.rows,
        },
        "objective": {"name": "teacher_top_k", "top_k": 20}
        if "url" in changes.get("teacher", {})
        else {},
        **{name: value for name, value in changes.items() if name not in ("student", "teacher")},
        "student": {
            "model": STUDENT,
            "dtype": "bfloat16",
            "gradient_checkpointing": True,
            **changes.get("student", {}),
        },
        "teacher": {"model": TEACHER, "dtype": "bfloat16", **changes.get("teacher", {})},
    }
    return estimate(parse(given), prompt_tokens=PROMPT)


def scenario_for(arm: PlannedLayout) -> Scenario:
    student = ModelSize.of(PUBLISHED[STUDENT], 2.0)
    return Scenario(
        arm.layout,
        student,
        ModelSize.of(PUBLISHED[TEACHER], 2.0),
        arm.engine,
        H100,
        H100,
        H100,
        pass_tokens=PASS_TOKENS,
        times=4.0,  # activations are computed again
        send=2 * student.bytes / SENT,
        store=1 / WRITTEN,
    )


def drawn(seed: int, prompts: int = PROMPTS) -> Groups:
    """Completions of 1,000 tokens in the middle (log-normal, σ 0.7), none above the limit."""
    lengths = random.Random(seed)

    def length() -> int:
        return min(LIMIT, max(1, round(lengths.lognormvariate(6.9, 0.7))))

    return [(PROMPT, [length() for _ in range(GROUP)]) for _ in range(prompts)]


@dataclass(frozen=True)
class PlannedFigures:
    arm: PlannedLayout
    cost: StepCost
    seconds: float  # of a step, simulated
    rate: float  # completion tokens per second, simulated
    idle: dict[str, float]


def arms(steps: int = 4) -> list[PlannedFigures]:
    rows = [drawn(seed) for seed in range(steps)]
    return [_figures(arm, rows) for arm in ARMS]


def _figures(arm: PlannedLayout, rows: Sequence[Groups]) -> PlannedFigures:
    scenario, layout = scenario_for(arm), arm.layout
    trace = SimulatedRun(scenario, rows).run()
    tokens = sum(map(tokens_of, rows[1:-1]))
    kinds = (
        {"devices": layout.trainer}
        if layout.together
        else {
            kind: count
            for kind in ("sampler", "teacher", "trainer")
            if (count := getattr(layout, kind))
        }
    )
    idle = {kind: trace.idle(kind, count) for kind, count in kinds.items()}
    rate = tokens / (len(rows) - 2) / trace.step_seconds
    return PlannedFigures(arm, step_cost(scenario, rows[1]), trace.step_seconds, rate, idle)


def more_devices(counts: Sequence[int]) -> list[tuple[int, float, float]]:
    """Devices, seconds of a step of 64 prompts, and of one that grows with the devices: together,
    layers cut."""
    rows = []
    for n in counts:
        scenario = replace(scenario_for(ARMS[0]), layout=Layout(n, sharded=True))
        grown = drawn(0, PROMPTS * n // counts[0])
        rows.append((n, step_cost(scenario, drawn(0)).total, step_cost(scenario, grown).total))
    return rows
