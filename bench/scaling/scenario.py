"""Which devices do what, and how a step's rows and passes are shared among them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from bench.scaling.costs import (
    Engine,
    Groups,
    ModelSize,
    Rates,
    gathering_seconds,
    reading_seconds,
    training_seconds,
)


@dataclass(frozen=True)
class Layout:
    """How many devices write, read and train; with `together` all of them do all by turns, and
    `trainer` is their number. `teacher` 0: the teacher is on the trainer's devices."""

    trainer: int
    sampler: int = 0
    teacher: int = 0
    lag: int = 0
    sharded: bool = False  # layers are cut among the devices that hold a model

    def __post_init__(self) -> None:
        if self.lag and self.together:
            raise ValueError("lag needs a sampler on devices of its own")

    @property
    def together(self) -> bool:
        return self.sampler == 0


@dataclass(frozen=True)
class Scenario:
    """All that decides how long a step takes, but the rows."""

    layout: Layout
    student: ModelSize
    teacher: ModelSize
    engine: Engine
    sampling: Rates
    reading: Rates
    training: Rates
    pass_tokens: int  # of a micro-batch
    shared_prompts: bool = False  # a group's prompt is read once for all of its completions
    times: float = 3.0  # student's forward and backward in forward passes
    send: float = 0.0  # seconds that weights take to the sampler
    store: float = 0.0  # seconds for each completion token
    rest: float = 0.0  # seconds of a step beside all of it


def shares(groups: Groups, parts: int, weight: Callable[[int], float]) -> list[Groups]:
    """Contiguous shares of rows of about the same weight, as `opd.ranks.group.Ranks.spans` cuts."""
    rows = [(i, n) for i, (_, completions) in enumerate(groups) for n in completions]
    weights = [weight(n) for _, n in rows]
    total = sum(weights)
    cut: list[dict[int, list[int]]] = [{} for _ in range(parts)]
    for (group, n), size, end in zip(rows, weights, accumulate(weights), strict=True):
        part = min(parts - 1, int((end - size / 2) * parts / total))
        cut[part].setdefault(group, []).append(n)
    return [[(groups[i][0], ns) for i, ns in part.items()] for part in cut]


def micro_batches(groups: Groups, pass_tokens: int, *, shared: bool) -> list[Groups]:
    """Groups one after the other, up to so many tokens a pass; a row alone where it has more."""
    batches: list[list[tuple[int, Sequence[int]]]] = []
    held = 0
    for prompt, completions in groups:
        alone = [(prompt, completions)] if shared else [(prompt, [n]) for n in completions]
        for part in alone:
            size = part[0] + sum(part[1])
            if not batches or held + size > pass_tokens:
                batches.append([])
                held = 0
            batches[-1].append(part)
            held += size
    return list(batches)


def sampling_shares(scenario: Scenario, groups: Groups) -> list[Groups]:
    """What each copy of the student writes; rows count alike, as nobody knows their lengths."""
    layout = scenario.layout
    copies = layout.trainer if layout.together else layout.sampler
    return [part for part in shares(groups, copies, lambda _: 1.0) if part]


def training_shares(scenario: Scenario, groups: Groups) -> list[list[Groups]]:
    """The micro-batches of each device, whose shares are by tokens."""
    parts = shares(groups, scenario.layout.trainer, lambda n: n)
    return [
        micro_batches(part, scenario.pass_tokens, shared=scenario.shared_prompts)
        for part in parts
        if part
    ]


def pass_seconds(scenario: Scenario, batch: Groups) -> tuple[float, float]:
    """Of a micro-batch: the teacher's pass, the student's forward and backward.

    Where layers are cut, a pass lasts as long as its exchange, if that is longer."""
    layout, shared = scenario.layout, scenario.shared_prompts
    read = reading_seconds(scenario.reading, scenario.teacher, batch, shared=shared)
    train = training_seconds(
        scenario.training, scenario.student, batch, shared=shared, times=scenario.times
    )
    if layout.sharded:
        n = layout.trainer
        train = max(train, gathering_seconds(scenario.training, scenario.student, n, learns=True))
        if not layout.teacher:
            read = max(read, gathering_seconds(scenario.reading, scenario.teacher, n, learns=False))
    return read, train


def tokens_of(groups: Groups) -> int:
    return sum(n for _, completions in groups for n in completions)
