"""Rates of a processor from some measured cases, and what they predict of the others.

The seconds of a phase are linear in what it does: tokens, FLOPs, passes. Their factors are the
least squares of relative errors over the steps of the cases that fit, none below 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from bench.scaling.cases import CASES, MeasuredStep, SmallCase
from bench.scaling.costs import (
    COMPACT_AT,
    Engine,
    Groups,
    ModelSize,
    Rates,
    batches,
    forward_flops,
    held_rows,
)
from bench.scaling.layouts import step_cost
from bench.scaling.scenario import Layout, Scenario, micro_batches
from bench.scaling.simulation import SimulatedRun
from opd.models.architecture import architecture_of
from opd.models.cost import causal_pairs

PARTS = ("sample", "teacher", "student")
SIMULATED = 12  # steps
PASS_TOKENS = 2048  # of a micro-batch on a processor
BOTH = "32 × 4, two processes"  # the case that says how two processes slow each other
Steps = Mapping[str, Sequence[MeasuredStep]]


@dataclass(frozen=True)
class FittedRates:
    """`beside`: how much longer everything takes while the other core works as well."""

    rates: Rates
    store: float  # seconds for each token
    rest: float  # seconds of a step that no phase has, and what storing takes beside tokens
    send: float
    beside: float


def groups_of(step: MeasuredStep) -> Groups:
    size = len(step.completions) // len(step.prompts)
    return [
        (prompt, step.completions[i * size : (i + 1) * size])
        for i, prompt in enumerate(step.prompts)
    ]


def positive_least_squares(
    rows: Sequence[Sequence[float]], seconds: Sequence[float]
) -> list[float]:
    """Factors ≥ 0 of the columns that make the least relative errors: of all choices of columns
    the best that needs no negative one."""
    target = np.asarray(seconds)
    scaled = np.asarray(rows, float) / target[:, None]
    best, best_factors = float("inf"), [0.0] * scaled.shape[1]
    columns = range(scaled.shape[1])
    for chosen in (c for n in range(1, len(best_factors) + 1) for c in combinations(columns, n)):
        part = scaled[:, list(chosen)]
        factors = np.linalg.lstsq(part, np.ones(len(target)), rcond=None)[0]
        error = float(((part @ factors - 1) ** 2).sum())
        if (factors >= 0).all() and error < best:
            best = error
            best_factors = [0.0] * scaled.shape[1]
            for column, factor in zip(chosen, factors, strict=True):
                best_factors[column] = float(factor)
    return best_factors


def model_of(case: SmallCase, name: str) -> ModelSize:
    reference = case.whole.get(f"{name}.model", f"bundled/{name}")
    model = architecture_of(reference, where=f"{name}.model")
    assert model is not None
    return ModelSize.of(model, 4.0)


def scenario_of(case: SmallCase, fitted: FittedRates) -> Scenario:
    """The case as the model sees it; two processes at once are slower by `beside`."""
    whole = case.whole
    devices = whole.get("devices", 1)
    if case.beside is not None:
        layout = Layout(1, 1, lag=case.beside)
    else:
        layout = Layout(devices, sharded=whole.get("sharding") == "full")
    both = fitted.beside if devices > 1 or case.beside else 1.0
    rates = slower(fitted.rates, both)
    return Scenario(
        layout,
        model_of(case, "student"),
        model_of(case, "teacher"),
        Engine(whole["sampling.batch_size"], compact_at=COMPACT_AT),
        sampling=rates,
        reading=rates,
        training=rates,
        pass_tokens=PASS_TOKENS,
        shared_prompts=True,
        send=fitted.send,
        store=fitted.store if case.beside is None else 0.0,
        rest=fitted.rest,
    )


def slower(rates: Rates, times: float) -> Rates:
    return replace(
        rates,
        decode_flops=rates.decode_flops / times,
        read_flops=rates.read_flops / times,
        train_flops=rates.train_flops / times,
        token=rates.token * times,
        run=rates.run * times,
        update=rates.update * times,
    )


def fitted(measured: Steps) -> FittedRates:
    """From the cases that fit, how long weights take from the sampler's process, and how two
    processes slow each other from one case of two."""
    fits = [(case, step) for case in CASES if case.fits for step in measured[case.name]]
    teacher = _phase(fits, "teacher", lambda c, s: (_passes(c, s), _forward(c, s, "teacher")))
    run, per_flop = teacher
    student = _phase(
        [(c, _less(s, "student", run * _passes(c, s))) for c, s in fits],
        "student",
        lambda c, s: (3 * _forward(c, s, "student"),),
    )
    prompts = [(c, _less(s, "sample", run + per_flop * _prompt_flops(c, s))) for c, s in fits]
    token, per_decoded = _phase(prompts, "sample", lambda c, s: decoding_work(c, s))
    store, fixed = _phase(fits, "store", lambda _, s: (float(sum(s.completions)), 1.0))
    rates = Rates(
        decode_flops=1 / per_decoded,
        read_flops=1 / per_flop,
        train_flops=1 / student[0],
        bandwidth=float("inf"),
        token=token,
        run=run,
        update=float(np.median([s.seconds["optimizer"] for _, s in fits])),
    )
    rest = [s.whole - sum(s.seconds.values()) for _, s in fits]
    sent = [s.seconds["send"] for c in CASES if c.beside == 0 for s in measured[c.name]]
    first = FittedRates(rates, store, fixed + float(np.median(rest)), float(np.median(sent)), 1.0)
    both = next(case for case in CASES if case.name == BOTH)
    predicted, seen = compared(both, measured[BOTH], first)
    return replace(first, beside=seen["total"] / predicted["total"])


def _phase(
    steps: Sequence[tuple[SmallCase, MeasuredStep]],
    name: str,
    work: Callable[[SmallCase, MeasuredStep], Sequence[float]],
) -> list[float]:
    return positive_least_squares(
        [work(case, step) for case, step in steps], [step.seconds[name] for _, step in steps]
    )


def _less(step: MeasuredStep, name: str, seconds: float) -> MeasuredStep:
    left = max(1e-6, step.seconds[name] - seconds)
    return replace(step, seconds={**step.seconds, name: left})


def _passes(case: SmallCase, step: MeasuredStep) -> float:
    return float(len(micro_batches(groups_of(step), PASS_TOKENS, shared=True)))


def _forward(case: SmallCase, step: MeasuredStep, name: str) -> float:
    return forward_flops(model_of(case, name), groups_of(step), shared=True)


def _prompt_flops(case: SmallCase, step: MeasuredStep) -> float:
    cost = model_of(case, "student").cost
    return sum(cost.forward(n, causal_pairs(0, n)) for n in step.prompts)


def decoding_work(case: SmallCase, step: MeasuredStep) -> tuple[float, float]:
    """Tokens after the first of all batches, and their FLOPs."""
    cost, tokens, flops = model_of(case, "student").cost, 0.0, 0.0
    for batch in batches(groups_of(step), case.whole["sampling.batch_size"]):
        width = max(prompt for prompt, _ in batch)
        lengths = [n for _, completions in batch for n in completions]
        for t, held in enumerate(held_rows(lengths, COMPACT_AT), start=1):
            tokens += 1
            flops += cost.forward(held, held * (width + t))
    return tokens, flops


def compared(
    case: SmallCase, steps: Sequence[MeasuredStep], fitted: FittedRates
) -> tuple[dict[str, float], dict[str, float]]:
    """(predicted, measured): seconds of a median step by phase, and `total`."""
    scenario = scenario_of(case, fitted)
    costs = [step_cost(scenario, groups_of(step)) for step in steps]
    predicted = {name: _median([getattr(c, name) for c in costs]) for name in (*PARTS, "total")}
    # Beside a sampler of its own, the trainer's seconds are those that it waited.
    names = {"sample": "write"} if case.beside is not None else {}
    seen = {name: _median([s.seconds[names.get(name, name)] for s in steps]) for name in PARTS}
    return predicted, {**seen, "total": _median([s.whole for s in steps])}


def drawn_steps(case: SmallCase, measured: Steps, seed: int = 0) -> list[Groups]:
    """Steps of the case's size, whose lengths are drawn from those of the cases that fit: what is
    simulated knows nothing of the case but its settings."""
    random = np.random.default_rng(seed)
    pool = [s for c in CASES if c.fits for s in measured[c.name]]
    prompts = [n for s in pool for n in s.prompts]
    lengths = [n for s in pool for n in s.completions]
    whole = case.whole
    size = (whole["sampling.prompts_per_step"], whole["sampling.group_size"])
    limit = whole["sampling.max_new_tokens"]
    return [
        [
            (
                int(random.choice(prompts)),
                [min(limit, int(n)) for n in random.choice(lengths, size[1])],
            )
            for _ in range(size[0])
        ]
        for _ in range(SIMULATED)
    ]


def simulated_seconds(case: SmallCase, measured: Steps, fitted: FittedRates) -> float:
    """Of a step, by the simulation."""
    steps = drawn_steps(case, measured)
    return SimulatedRun(scenario_of(case, fitted), steps).run().step_seconds


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))
