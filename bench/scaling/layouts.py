"""Seconds of a step by layout in closed form.

    together       sample + Σ (read + train) + update
    apart          send + sample + pipeline + update
    apart, lag 1   send + max(sample, pipeline + update)
    pipeline       r + max(m · t, (m − 1) · r + t): m micro-batches, read in r and trained in t

Exact where devices of a kind have equal work (and, of a pipeline, equal micro-batches); the
simulation follows rows one by one.
"""

from dataclasses import dataclass
from itertools import zip_longest

from bench.scaling.costs import Groups, sampling_seconds, updating_seconds
from bench.scaling.scenario import (
    Scenario,
    pass_seconds,
    sampling_shares,
    tokens_of,
    training_shares,
)


@dataclass(frozen=True)
class StepCost:
    """Seconds. `train`: teacher and student, from the first pass to the last; `total` of a step
    once the run has begun."""

    sample: float
    teacher: float  # of one device that reads, all of its passes
    student: float  # of one device that trains, likewise
    train: float
    update: float
    total: float


def step_cost(scenario: Scenario, groups: Groups) -> StepCost:
    layout = scenario.layout
    sample = max(
        sampling_seconds(scenario.sampling, scenario.student, scenario.engine, part)
        for part in sampling_shares(scenario, groups)
    )
    cut = training_shares(scenario, groups)
    passes = [[pass_seconds(scenario, batch) for batch in micro] for micro in cut]
    reading = [sum(read for read, _ in part) for part in passes]
    training = [sum(train for _, train in part) for part in passes]
    train = max(r + t for r, t in zip(reading, training, strict=True))
    if layout.sharded:  # all devices pass through the layers in step
        turns = list(zip_longest(*passes, fillvalue=(0.0, 0.0)))
        train = sum(max(r for r, _ in turn) + max(t for _, t in turn) for turn in turns)
    if layout.teacher:
        teacher, count = sum(reading) / layout.teacher, max(map(len, passes))
        turn = teacher / count
        first, last = max(turn, sum(reading) / sum(map(len, passes))), max(training) / count
        train = first + max(max(training), teacher - turn + last)
    else:
        teacher = max(reading)
    update = updating_seconds(
        scenario.training, scenario.student, layout.trainer, cut=layout.sharded
    )
    end = update + scenario.store * tokens_of(groups) + scenario.rest
    send = 0.0 if layout.together else scenario.send
    both = max(sample, train + end) if layout.lag else sample + train + end
    return StepCost(sample, teacher, max(training), train, update, send + both)
