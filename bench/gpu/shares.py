"""The student's forward and backward, and the teacher's forward, as shares of the device's peak."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from bench.gpu.workbench import Figures, Workbench, rates, spread
from bench.steps import Setup, floor
from bench.support.endless import endless
from opd.data.prompts import Prompt, load_prompts
from opd.models.load import context_of
from opd.sampling.sample import NEVER, Sample
from opd.training.loading import Callbacks, load
from opd.training.rollouts import Completion
from opd.training.step.clock import Clock
from opd.training.update import update

BUDGET = 40.0
NAMES = {"teacher": "teacher's forward", "student": "student's forward and backward"}


@dataclass
class WaitingClock(Clock):
    """Lets the device finish each phase before the next is timed."""

    wait: Callable[[], None] = lambda: None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.wait()
        with super().phase(name):
            yield
            self.wait()


def shares(bench: Workbench) -> Iterator[Figures]:
    """FLOPs are those that the models need (`bench.steps.floor`: nothing padded, nothing computed
    twice), the peak that of a product of square bfloat16 matrices. The student's time includes the
    loss and the records."""
    yield from _shares(bench)


def compiled(bench: Workbench) -> Iterator[Figures]:
    """The same with what the update computes compiled."""
    yield from _shares(bench, compiled=True)


def _shares(bench: Workbench, *, compiled: bool = False) -> Iterator[Figures]:
    """`start s` is the first update's, with all that is measured or compiled once."""
    peak = product_peak(bench)
    yield Figures("bfloat16 product", {"TFLOP/s": peak / 1e12})
    config = bench.config(optimizer={"compile": compiled})
    loaded = endless(load(config, None, Callbacks()))
    pair = loaded.pair
    prompts = load_prompts(config, pair.tokenizer, context_of(pair.student))
    chosen = prompts.for_step(1, bench.work.prompts, config.seed)
    written = completions(bench, chosen)
    needed = floor(Setup(config, loaded, chosen), written)
    clocks = list[WaitingClock]()

    def once() -> None:
        clocks.append(WaitingClock(wait=bench.wait))
        update(loaded.learner, written, clocks[-1], NEVER)

    bench.start_peak()
    start = bench.seconds(once)
    whole = bench.repeated(once, times=5, budget=BUDGET)
    for phase, flops in (("teacher", needed.teacher), ("student", needed.student)):
        spent = [clock.seconds[phase] for clock in clocks[2:]]
        share = spread([flops / seconds / peak for seconds in spent])
        yield Figures(NAMES[phase], {"s": spread(spent), "share of the peak": share})
    yield Figures("update", {"s": spread(whole), "start s": start, **bench.memory(config)})


def product_peak(bench: Workbench) -> float:
    """FLOP/s of the fastest of ten products."""
    size = 256 if bench.small else 8192
    a, b = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    return rates(2.0 * size**3, bench.repeated(lambda: a @ b, times=10))["high"]


def completions(bench: Workbench, prompts: Sequence[Prompt]) -> list[Completion]:
    """Random tokens in place of sampled ones."""
    draw = np.random.default_rng(0)
    work = bench.work
    return [
        Completion(
            prompt,
            number,
            Sample(
                draw.integers(3, bench.vocab, work.new), np.zeros(work.new, np.float32), "length"
            ),
            text="",
            reward=None,
        )
        for prompt in prompts
        for number in range(work.group)
    ]
