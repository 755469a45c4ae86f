"""A run of several steps, event by event: rows that are written token by token on several devices,
the longest of which the others wait for; micro-batches that pass from teacher to student; weights.

Orders are the product's: a step waits for its completions, with lag 1 sends the weights and has the
next step's begun, then reads, trains, and updates. A process's share of rows is fixed before.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import zip_longest

from bench.scaling.costs import (
    Groups,
    batches,
    held_rows,
    prompt_seconds,
    token_seconds,
    updating_seconds,
)
from bench.scaling.events import Process, Signal, SimulatedClock, every
from bench.scaling.scenario import (
    Scenario,
    pass_seconds,
    sampling_shares,
    tokens_of,
    training_shares,
)

TOGETHER = "devices"  # of a layout where all phases take turns on the same ones


@dataclass
class Trace:
    """What happened: ends of steps, busy seconds by kind of device and phase, tokens by phase."""

    ends: list[float] = field(default_factory=list)
    busy: dict[tuple[str, str], float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)  # by phase, as the trainer waits

    def work(self, device: str, phase: str, seconds: float) -> float:
        self.busy[device, phase] = self.busy.get((device, phase), 0.0) + seconds
        return seconds

    def count(self, phase: str, tokens: int) -> None:
        self.tokens[phase] = self.tokens.get(phase, 0) + tokens

    def idle(self, device: str, devices: int) -> float:
        """Share of the time that devices of a kind had nothing to do."""
        worked = sum(seconds for (kind, _), seconds in self.busy.items() if kind == device)
        return 1 - worked / (devices * self.ends[-1])

    @property
    def step_seconds(self) -> float:
        """Mean of at least three steps without the first and the last, which has none after it."""
        return (self.ends[-2] - self.ends[0]) / (len(self.ends) - 2)


class SimulatedRun:
    def __init__(self, scenario: Scenario, steps: Sequence[Groups]) -> None:
        self.scenario, self.steps = scenario, steps
        self.clock, self.trace = SimulatedClock(), Trace()
        layout = scenario.layout
        self._names = {p: TOGETHER if layout.together else p for p in ("sampler", "trainer")}
        self._names["teacher"] = "teacher" if layout.teacher else self._names["trainer"]

    def run(self) -> Trace:
        self.clock.start(self._training())
        self.clock.run()
        return self.trace

    def _training(self) -> Process:
        layout = self.scenario.layout
        ahead: list[Signal] = []
        for k, groups in enumerate(self.steps):
            start = self.clock.now
            if not ahead:
                yield from self._send()
                ahead = self._begin(groups)
            yield from every(ahead)
            ahead = []
            if layout.lag and k + 1 < len(self.steps):
                yield from self._send()
                ahead = self._begin(self.steps[k + 1])
            self._spend("sample", start)
            start = self.clock.now
            yield from every(self._update(groups))
            self._spend("update", start)
            yield from self._end(groups)
            self.trace.ends.append(self.clock.now)

    def _end(self, groups: Groups) -> Process:
        scenario, layout, trace = self.scenario, self.scenario.layout, self.trace
        seconds = updating_seconds(
            scenario.training, scenario.student, layout.trainer, cut=layout.sharded
        )
        yield (
            trace.work(self._names["trainer"], "optimizer", seconds * layout.trainer)
            / layout.trainer
        )
        yield scenario.store * tokens_of(groups) + scenario.rest

    def _send(self) -> Process:
        if not self.scenario.layout.together:
            yield self.scenario.send

    def _spend(self, phase: str, start: float) -> None:
        self.trace.spent[phase] = self.trace.spent.get(phase, 0.0) + self.clock.now - start

    def _begin(self, groups: Groups) -> list[Signal]:
        parts = sampling_shares(self.scenario, groups)
        return [self.clock.start(self._written(part)) for part in parts]

    def _written(self, groups: Groups) -> Process:
        engine = self.scenario.engine
        if engine.continuous:
            yield from self._continuous(groups)
            return
        for batch in batches(groups, engine.rows):
            yield self._sampled(
                prompt_seconds(self.scenario.sampling, self.scenario.student, [p for p, _ in batch])
            )
            lengths = [n for _, completions in batch for n in completions]
            width = max(p for p, _ in batch)
            for t, held in enumerate(held_rows(lengths, engine.compact_at), start=1):
                yield self._token(held, held * (width + t))
            self.trace.count("sampled", sum(lengths))

    def _continuous(self, groups: Groups) -> Process:
        """Rows take free places in turn; a group's prompt is read with its first row."""
        scenario = self.scenario
        queue = deque((p, n, i == 0) for p, ns in groups for i, n in enumerate(ns))
        ends: list[tuple[int, int]] = []  # of the rows that have a place: last token, and `begun`
        begun = t = 0  # sum of what the rows stood at less the time when they began; tokens so far
        while queue or ends:
            prompts = []
            while queue and len(ends) < scenario.engine.rows:
                prompt, n, first = queue.popleft()
                prompts += [prompt] * first
                heappush(ends, (t + n - 1, prompt + 1 - t))
                begun += prompt + 1 - t
                self.trace.count("sampled", 1)
            if prompts:
                yield self._sampled(prompt_seconds(scenario.sampling, scenario.student, prompts))
            while ends and ends[0][0] == t:
                begun -= heappop(ends)[1]
            if ends:
                yield self._token(len(ends), begun + t * len(ends))
                self.trace.count("sampled", len(ends))
                t += 1
                while ends and ends[0][0] == t:
                    begun -= heappop(ends)[1]

    def _token(self, rows: int, context: int) -> float:
        return self._sampled(
            token_seconds(self.scenario.sampling, self.scenario.student, rows, context)
        )

    def _sampled(self, seconds: float) -> float:
        return self.trace.work(self._names["sampler"], "sample", seconds)

    def _update(self, groups: Groups) -> list[Signal]:
        """Every trainer's micro-batches; a teacher of its own reads them in advance."""
        layout = self.scenario.layout
        cut = training_shares(self.scenario, groups)
        readings = [[Signal() for _ in micro] for micro in cut] if layout.teacher else []
        self._read_ahead(cut, readings)
        if layout.sharded:
            return [self.clock.start(self._in_step(cut, readings))]
        if not layout.teacher:
            return [self.clock.start(self._in_turn(micro)) for micro in cut]
        return [
            self.clock.start(self._following(*both)) for both in zip(cut, readings, strict=True)
        ]

    def _read_ahead(
        self, cut: Sequence[Sequence[Groups]], readings: Sequence[Sequence[Signal]]
    ) -> None:
        """Each device's first micro-batch, then each one's second, as a teacher is free."""
        pairs = [list(zip(*both, strict=True)) for both in zip(cut, readings, strict=False)]
        orders = deque(order for turn in zip_longest(*pairs) for order in turn if order)
        for _ in range(self.scenario.layout.teacher):
            self.clock.start(self._read_all(orders))

    def _in_turn(self, micro: Sequence[Groups]) -> Process:
        for batch in micro:
            yield self._read(batch)
            yield self._trained(batch)

    def _in_step(
        self, cut: Sequence[Sequence[Groups]], readings: Sequence[Sequence[Signal]]
    ) -> Process:
        """Layers that are cut are met by all devices at once: the longest pass decides."""
        signals = list(zip_longest(*readings))
        for i, turn in enumerate(zip_longest(*cut, fillvalue=())):
            if signals:
                yield from every([signal for signal in signals[i] if signal])
            else:
                yield max(self._read(batch) for batch in turn)
            yield max(self._trained(batch) for batch in turn)

    def _following(self, micro: Sequence[Groups], readings: Sequence[Signal]) -> Process:
        for batch, reading in zip(micro, readings, strict=True):
            yield reading
            yield self._trained(batch)

    def _read_all(self, orders: deque[tuple[Groups, Signal]]) -> Process:
        while orders:
            batch, signal = orders.popleft()
            yield self._read(batch)
            self.clock.give(signal)

    def _read(self, batch: Groups) -> float:
        self.trace.count("read", tokens_of(batch))
        return self.trace.work(
            self._names["teacher"], "teacher", pass_seconds(self.scenario, batch)[0]
        )

    def _trained(self, batch: Groups) -> float:
        self.trace.count("trained", tokens_of(batch))
        return self.trace.work(
            self._names["trainer"], "student", pass_seconds(self.scenario, batch)[1]
        )
