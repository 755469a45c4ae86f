"""Where a step's time and FLOPs go: shares of the processor's peak, executed FLOPs over the floor.

    python -m bench.steps [--steps 7] [--quick]

The floor is 8 Ns + 2 Nt per completion token (Ns, Nt: matrix parameters of student and teacher;
sampling, teacher, student forward and backward), the same for a prompt's tokens once per group but
without the head, whose logits nobody needs there, and causal attention. Executed FLOPs are what
torch's FlopCounterMode sees, and attention, whose kernel for the processor it does not know: all
pairs of a row with a mask of its own, half of them without; backward five products where forward
has two. Peaks are of float32 products in the same run: the models' own shapes over 4,000 tokens,
weighted by their FLOPs, and 2048 cubed.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from opd.config.run import RunConfig, parse
from opd.data.prompts import Prompt, load_prompts
from opd.models import cost
from opd.models.forward import piece_values, spans
from opd.models.load import context_of
from opd.sampling.sample import NEVER
from opd.training.loading import Callbacks, LoadedRun, load
from opd.training.rollouts import Completion, Writer, sequences, write
from opd.training.scoring import reader_of
from opd.training.step.clock import Clock
from opd.training.trainer import Training
from opd.training.update import update
from opd.types import StepEvent

THREADS = torch.get_num_threads()  # as OMP_NUM_THREADS says
SIZES = ((32, 4), (64, 4), (32, 1), (128, 1))  # prompts, completions of each
TOKENS = 4000  # of the products at the models' own shapes
Shape = tuple[int, ...]


def _attention(
    q: Shape, k: Shape, v: Shape, dropout_p: float = 0.0, is_causal: bool = False, **_: Any
) -> float:
    """FLOPs of queries (B, heads, T, size) over keys (B, ·, L, size): scores and mixing."""
    return 4.0 * math.prod(q) * k[2] * (0.5 if is_causal else 1.0)


def _attention_backward(grad: Shape, q: Shape, k: Shape, *rest: Any, **_: Any) -> float:
    is_causal = rest[4]  # after values, output, normalisers and dropout
    return 10.0 * math.prod(q) * k[2] * (0.5 if is_causal else 1.0)


ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


@dataclass(frozen=True)
class Setup:
    config: RunConfig
    loaded: LoadedRun
    prompts: list[Prompt]

    @property
    def writer(self) -> Writer:
        return Writer(self.loaded.pair, self.config, self.loaded.router)


@dataclass(frozen=True)
class Flops:
    """By phase: sampling, teacher, student."""

    sample: float
    teacher: float
    student: float

    @property
    def total(self) -> float:
        return self.sample + self.teacher + self.student


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one small size, one step")
    options = parser.parse_args()
    torch.set_num_threads(THREADS)
    for size in ((2, 2),) if options.quick else SIZES:
        report(size, 1 if options.quick else options.steps)


def config_of(size: tuple[int, int], steps: int) -> RunConfig:
    return parse(
        {
            "steps": steps,
            "threads": THREADS,
            "device": "cpu",
            "sampling": {"prompts_per_step": size[0], "group_size": size[1], "max_new_tokens": 40},
            "optimizer": {"learning_rate": 1e-6},
            "evaluation": {"prompts": 1, "temperatures": [0], "keep": 0},
        }
    )


def report(size: tuple[int, int], steps: int) -> None:
    config = config_of(size, steps)
    loaded = load(config, None, Callbacks())
    prompts = load_prompts(config, loaded.pair.tokenizer, context_of(loaded.pair.student))
    setup = Setup(config, loaded, prompts.for_step(1, size[0], config.seed))
    written = write(setup.writer, setup.prompts, step=1, stop=NEVER)
    executed = executed_flops(setup, written)
    least = floor(setup, written)
    print(f"\n{size[0]} prompts x {size[1]}, {THREADS} threads")
    print(f"{'':10} {'executed':>10} {'floor':>10} {'executed / floor':>17}   GFLOP")
    for name in ("sample", "teacher", "student", "total"):
        ours, theirs = getattr(executed, name) / 1e9, getattr(least, name) / 1e9
        print(f"{name:10} {ours:10.2f} {theirs:10.2f} {ours / theirs:17.3f}")
    shares(config)
    against_peak(setup, written, executed, steps)


def executed_flops(setup: Setup, written: list[Completion]) -> Flops:
    def count(call: Callable[[], object]) -> float:
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as counter:
            call()
        return float(counter.get_total_flops())

    sample = count(lambda: write(setup.writer, setup.prompts, step=1, stop=NEVER))
    teacher = count(lambda: teacher_reads(setup, written))
    both = count(lambda: update(setup.loaded.learner, written, Clock(), NEVER))
    return Flops(sample, teacher, both - teacher)


def teacher_reads(setup: Setup, written: Sequence[Completion]) -> None:
    pair, whole = setup.loaded.pair, sequences(written)
    readings = setup.loaded.learner.router.read(
        [w.prompt for w in written],
        whole,
        temperature=1.0,
        max_tokens=setup.config.optimizer.tokens_per_pass,
    )
    for rows, reading in readings:
        assert reading is not None
        targets = reader_of(pair).batch(whole.take(rows), 0.0).targets
        limit = piece_values(pair.vocab, pair.device)
        for cut in spans(len(targets), vocab=pair.vocab, limit=limit):
            reading.view(cut, targets[cut])


def floor(setup: Setup, written: Sequence[Completion]) -> Flops:
    """Every completion token once through each phase, every group's prompt once, in pairs."""
    pair = setup.loaded.pair
    groups: dict[int, list[Completion]] = {}
    for w in written:
        groups.setdefault(w.prompt.number, []).append(w)

    def forward(model: torch.nn.Module) -> float:
        counted = cost.model_cost(model)
        total = 0.0
        for members in groups.values():
            start = len(members[0].prompt.ids)
            total += counted.forward(start, cost.causal_pairs(0, start)) - 2.0 * start * head(model)
            for w in members:
                n = len(w.sample.completion_ids)
                total += counted.forward(n, cost.causal_pairs(start, start + n))
        return total

    student, teacher = forward(pair.student), forward(pair.teacher)
    return Flops(student, teacher, 3 * student)


def head(model: torch.nn.Module) -> int:
    weights: int = model.get_output_embeddings().weight.numel()  # type: ignore[operator]
    return weights


def shares(config: RunConfig) -> None:
    """Of the time of whole steps, nothing stored; the first one warms up."""
    spent, totals = list[Mapping[str, float]](), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        events = Training(config.model_copy(update={"steps": 10_000}), Path(folder)).events()
        assert isinstance(events, Generator)
        for _ in range(config.steps + 1):
            seconds, event = next_step(events)
            totals.append(seconds)
            spent.append(event.seconds)
        events.close()
    whole = statistics.median(totals[1:])
    parts = {k: statistics.median(s[k] for s in spent[1:]) / whole for k in spent[0]}
    parts["rest"] = 1 - sum(parts.values())
    print(f"a step {whole:.3f} s: " + ", ".join(f"{k} {v:.0%}" for k, v in parts.items()))


def next_step(events: Iterator[object]) -> tuple[float, StepEvent]:
    """Seconds from the end of the event before to the end of the step, and the step."""
    while True:
        start = time.perf_counter()
        event = next(events)
        if isinstance(event, StepEvent):
            return time.perf_counter() - start, event


def against_peak(setup: Setup, written: list[Completion], executed: Flops, steps: int) -> None:
    rates: dict[str, list[float]] = {"student": [], "teacher": [], "own shapes": [], "2048": []}
    config = setup.loaded.pair.student.config
    for turn in range(steps + 1):
        clock = Clock()
        update(setup.loaded.learner, written, clock, NEVER)
        turn_rates = {
            "student": executed.student / clock.seconds["student"],
            "teacher": executed.teacher / clock.seconds["teacher"],
            "own shapes": own_shapes(config),
            "2048": product(2048, 2048, 2048),
        }
        for name, rate in turn_rates.items():
            if turn:  # the first one warms up
                rates[name].append(rate / 1e9)
    own_peak, cube = (statistics.median(rates[k]) for k in ("own shapes", "2048"))
    print(f"GEMM peak {own_peak:.0f} GFLOP/s at the models' own shapes, {cube:.0f} at 2048 cubed")
    for name in ("student", "teacher"):
        share = [a / b for a, b in zip(rates[name], rates["own shapes"], strict=True)]
        print(
            f"{name} {statistics.median(rates[name]):.0f} GFLOP/s, of own shapes' peak "
            f"{statistics.median(share):.0%} ({min(share):.0%} to {max(share):.0%}), "
            f"of 2048 cubed {statistics.median(rates[name]) / cube:.0%}"
        )


def own_shapes(config: object) -> float:
    """FLOP/s over one layer's products of TOKENS tokens."""
    hidden, inner = config.hidden_size, config.intermediate_size  # type: ignore[attr-defined]
    width = config.num_attention_heads * config.head_dim  # type: ignore[attr-defined]
    shapes = ((hidden, width), (width, hidden), (hidden, inner), (inner, hidden))
    times = (3, 1, 2, 1)
    flops = [2.0 * TOKENS * a * b * n for (a, b), n in zip(shapes, times, strict=True)]
    seconds = [f / product(TOKENS, a, b) for f, (a, b) in zip(flops, shapes, strict=True)]
    return float(sum(flops) / sum(seconds))


def product(n: int, inner: int, outer: int) -> float:
    """FLOP/s of (n × inner)·(inner × outer), the best of five."""
    a, b = torch.randn(n, inner), torch.randn(inner, outer)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - start)
    return 2.0 * n * inner * outer / min(seconds)


if __name__ == "__main__":
    main()
