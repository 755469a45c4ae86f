"""The model of a step against schedules worked out by hand, and a simulation against the model."""

import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.scaling import costs, scenario, simulation
from bench.scaling.costs import Engine, Groups, ModelSize, Rates, held_rows, sampling_seconds
from bench.scaling.events import Process, Signal, SimulatedClock
from bench.scaling.layouts import step_cost
from bench.scaling.scenario import Layout, Scenario, micro_batches, shares, tokens_of
from bench.scaling.simulation import TOGETHER, SimulatedRun
from opd.models.cost import ModelCost
from opd.sampling.sample import COMPACT_AT

# A model of one parameter and no attention: 2 FLOPs a token.
UNIT = ModelSize(ModelCost(1, 0, 0), parameters=1, cached=0, value=0.0, trained=1)
# A second for each token of all rows, for each token read, and for each token trained.
HAND = Rates(math.inf, read_flops=2.0, train_flops=6.0, bandwidth=math.inf, token=1.0)


def hand(layout: Layout, **changes: object) -> Scenario:
    given = Scenario(layout, UNIT, UNIT, Engine(100), HAND, HAND, HAND, pass_tokens=5)
    return replace(given, **changes)  # type: ignore[arg-type]


def ends(given: Scenario, steps: list[Groups]) -> list[float]:
    return SimulatedRun(given, steps).run().ends


ONE: Groups = [(2, [3])]  # a prompt of two tokens, a completion of three
TWO: Groups = [(2, [3]), (2, [3])]


def follow_the_hand() -> None:
    """Schedules that anybody can follow with a pencil."""
    # 2 s for the prompt, 2 for the second and third token, 5 read, 5 trained.
    assert ends(hand(Layout(1)), [ONE]) == [14.0]
    # Both prompts in one pass of 4 s, both rows' tokens in 2; then 5 + 5 twice.
    assert ends(hand(Layout(1)), [TWO]) == [26.0]
    # Two devices: a row each.
    assert ends(hand(Layout(2)), [TWO]) == [14.0]
    # A teacher of its own: read 5; trained 5 while the other is read; trained 5.
    assert ends(hand(Layout(1, 1, 1)), [TWO]) == [6.0 + 15.0]
    # Weights take 3 s to a sampler of its own: 3 + 6 + 20 a step.
    assert ends(hand(Layout(1, 1), send=3.0), [TWO, TWO]) == [29.0, 58.0]
    # With lag the second step's 6 s of writing are over within the first one's 20 of training.
    assert ends(hand(Layout(1, 1, lag=1), send=3.0), [TWO, TWO, TWO]) == [32.0, 55.0, 75.0]
    # A straggler of 10 tokens: the other device waits from 2 + 2 to 2 + 9.
    late: Groups = [(2, [3]), (2, [10])]
    trace = SimulatedRun(hand(Layout(2), pass_tokens=100), [late]).run()
    assert trace.ends == [11.0 + 12.0 + 12.0]
    assert trace.busy == {
        (TOGETHER, "sample"): 4.0 + 11.0,
        (TOGETHER, "teacher"): 17.0,
        (TOGETHER, "student"): 17.0,
        (TOGETHER, "optimizer"): 0.0,
    }
    # Two places: the second row ends with its prompt's pass, the third begins a token later.
    queue: Groups = [(1, [3]), (1, [1]), (1, [2])]
    written = hand(Layout(1, 1), engine=Engine(2, continuous=True), pass_tokens=100)
    assert SimulatedRun(written, [queue]).run().spent["sample"] == 2.0 + 1.0 + 1.0 + 1.0
    # A second for the optimizer.
    assert ends(hand(Layout(1), training=replace(HAND, update=1.0)), [ONE]) == [15.0]
    # 4 B of a gradient twice over half the ring, at 2 B/s, and 28 B at 14 B/s.
    slow = replace(HAND, link=2.0, bandwidth=14.0)
    assert costs.updating_seconds(slow, UNIT, devices=2) == 2.0 + 2.0


def test_schedules_are_those_worked_out_by_hand() -> None:
    follow_the_hand()


def negative(name: str) -> Callable[..., float]:
    function = getattr(costs, name)
    return lambda *given, **named: -function(*given, **named)


@pytest.mark.parametrize(
    ("module", "name", "fault"),
    [
        (scenario, "reading_seconds", negative("reading_seconds")),
        (scenario, "training_seconds", negative("training_seconds")),
        (simulation, "updating_seconds", negative("updating_seconds")),
        (simulation, "token_seconds", negative("token_seconds")),
        (simulation, "prompt_seconds", negative("prompt_seconds")),
        (simulation, "held_rows", lambda lengths, compact_at: iter(())),
    ],
)
def test_a_planted_fault_is_found(
    monkeypatch: pytest.MonkeyPatch, module: object, name: str, fault: object
) -> None:
    monkeypatch.setattr(module, name, fault)
    with pytest.raises((AssertionError, ValueError)):
        follow_the_hand()


def test_finished_rows_leave_as_in_the_products_own_sampler() -> None:
    assert costs.COMPACT_AT == COMPACT_AT
    # Four rows: at most 3 go on after the second token, 1 after the fourth.
    assert list(held_rows([2, 4, 4, 6], COMPACT_AT)) == [4, 3, 3, 1, 1]
    assert list(held_rows([2, 6, 6, 6, 6], COMPACT_AT)) == [5, 5, 5, 5, 5]
    assert list(held_rows([2, 6, 6, 6, 6], 1.0)) == [5, 4, 4, 4, 4]
    assert list(held_rows([1], 1.0)) == list(held_rows([], 1.0)) == []


PASS = 4 * (12 + 30)  # tokens: as many micro-batches on each device
# A model and devices whose every rate counts.
SIZE = ModelSize(ModelCost(1000, 2, 8), parameters=1200, cached=32, value=2.0, trained=1200)
RATES = Rates(4e5, 1e6, 8e5, bandwidth=2e6, token=0.01, run=0.02, update=0.05, link=1e5)
LAYOUTS = [
    Layout(1),
    Layout(4),
    Layout(4, sharded=True),
    Layout(2, 2),
    Layout(2, 4, 2),
    Layout(4, 2, 2),
    Layout(4, 2, 1, sharded=True, lag=1),
    Layout(2, 4, lag=1),
    Layout(1, 2, 1, lag=1),
    Layout(4, 4, lag=1),
]
ENGINES = [Engine(64), Engine(64, continuous=True)]


def scenario_of(layout: Layout, engine: Engine, **changes: object) -> Scenario:
    given = Scenario(layout, SIZE, SIZE, engine, RATES, RATES, RATES, PASS, send=0.3, store=1e-5)
    return replace(given, **changes)  # type: ignore[arg-type]


def drawn(seed: int, prompts: int = 16, group: int = 4, longest: int = 60) -> Groups:
    random_ = random.Random(seed)
    return [
        (random_.randint(5, 20), [random_.randint(1, longest) for _ in range(group)])
        for _ in range(prompts)
    ]


EQUAL: Groups = [(12, [30] * 4)] * 16


@pytest.mark.parametrize("engine", ENGINES, ids=["batches", "continuous"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_simulation_and_closed_form_agree_where_that_is_exact(
    layout: Layout, engine: Engine
) -> None:
    given = scenario_of(layout, engine)
    trace = SimulatedRun(given, [EQUAL] * 6).run()
    cost = step_cost(given, EQUAL)
    steps = [b - a for a, b in zip(trace.ends[1:], trace.ends[2:-1], strict=False)]
    assert steps == pytest.approx([cost.total] * 3, rel=1e-9)


@pytest.mark.parametrize("engine", ENGINES, ids=["batches", "continuous"])
@pytest.mark.parametrize("seed", range(5))
def test_writing_rows_of_any_length_is_exact_where_all_have_a_place(
    seed: int, engine: Engine
) -> None:
    given, groups = scenario_of(Layout(1, 1), engine), drawn(seed)
    spent = SimulatedRun(given, [groups]).run().spent["sample"] - given.send
    exact = sampling_seconds(RATES, SIZE, engine, groups)
    assert spent == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("rows", [7, 64])
def test_every_token_is_written_read_and_trained_once(layout: Layout, rows: int) -> None:
    steps = [drawn(seed) for seed in range(4)]
    tokens = sum(map(tokens_of, steps))
    for continuous in (False, True):
        trace = SimulatedRun(scenario_of(layout, Engine(rows, continuous)), steps).run()
        assert trace.tokens == {"sampled": tokens, "read": tokens, "trained": tokens}
        assert trace.ends == sorted(trace.ends) and len(trace.ends) == 4


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_nothing_is_busier_than_its_devices(layout: Layout) -> None:
    trace = SimulatedRun(scenario_of(layout, Engine(16, True)), [drawn(s) for s in range(4)]).run()
    kinds = {TOGETHER: layout.trainer} if layout.together else {"trainer": layout.trainer}
    kinds |= {k: getattr(layout, k) for k in ("sampler", "teacher") if getattr(layout, k)}
    assert {kind for kind, _ in trace.busy} == set(kinds)
    assert all(0 <= trace.idle(kind, count) < 1 for kind, count in kinds.items())


def total(layout: Layout, groups: Groups = EQUAL, **changes: object) -> float:
    given = scenario_of(layout, Engine(64), **changes)
    return SimulatedRun(given, [groups] * 3).run().ends[-1]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_more_work_is_never_quicker_and_better_rates_never_slower(layout: Layout) -> None:
    usual = total(layout)
    assert total(layout, [(12, [31] * 4)] * 16) > usual
    assert total(layout, store=2e-5) > usual
    assert total(layout, times=4.0) > usual
    for name in ("decode_flops", "read_flops", "train_flops", "bandwidth", "link"):
        better = replace(RATES, **{name: getattr(RATES, name) * 2})
        assert total(layout, sampling=better, reading=better, training=better) <= usual
    if not layout.together:
        assert total(layout, send=0.6) > usual


def test_more_devices_are_never_slower() -> None:
    free = replace(RATES, link=math.inf)  # an all-reduce costs more than it saves sooner or later
    times = [
        total(layout, sampling=free, reading=free, training=free)
        for layout in (Layout(1), Layout(2), Layout(4), Layout(8))
    ]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[3] < 8  # what does not get shorter: tokens one after the other


def test_lag_hides_the_shorter_of_writing_and_training() -> None:
    apart, lagging = (
        step_cost(scenario_of(Layout(2, 2, lag=n), Engine(64)), EQUAL) for n in (0, 1)
    )
    saved = apart.total - lagging.total
    assert saved == pytest.approx(min(apart.sample, apart.total - apart.sample - 0.3), rel=1e-9)


@pytest.mark.parametrize("rows", [8, 16, 24])
def test_the_closed_form_of_a_queue_is_near_the_simulation(rows: int) -> None:
    engine = Engine(rows, continuous=True)
    given = scenario_of(Layout(1, 1), engine)
    for seed in range(3):
        groups = drawn(seed, prompts=32)
        spent = SimulatedRun(given, [groups]).run().spent["sample"] - given.send
        assert sampling_seconds(RATES, SIZE, engine, groups) == pytest.approx(spent, rel=0.12)


def test_shares_are_contiguous_and_cut_as_the_products_are() -> None:
    groups: Groups = [(2, [5, 1]), (3, [1, 5])]
    assert shares(groups, 2, lambda n: n) == [[(2, [5, 1])], [(3, [1, 5])]]
    assert shares(groups, 2, lambda _: 1) == shares(groups, 2, lambda n: n)
    assert shares([(2, [1, 1, 1])], 2, lambda n: n) == [[(2, [1])], [(2, [1, 1])]]
    assert micro_batches(groups, 12, shared=True) == [[(2, [5, 1])], [(3, [1, 5])]]
    assert micro_batches([(2, [5, 1])], 8, shared=False) == [[(2, [5])], [(2, [1])]]


def test_layouts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="devices of its own"):
        Layout(2, lag=1)


def test_simulated_time_does_not_go_back_and_signals_are_given_once() -> None:
    clock, signal, seen = SimulatedClock(), Signal(), list[tuple[str, float]]()

    def waits(name: str) -> Process:
        yield signal
        seen.append((name, clock.now))

    def gives() -> Process:
        yield 2.0
        clock.give(signal)
        yield clock.start(waits("after"))
        yield -1.0

    clock.start(waits("first"))
    clock.start(waits("second"))
    clock.start(gives())
    with pytest.raises(ValueError, match="does not go back"):
        clock.run()
    assert seen == [("first", 2.0), ("second", 2.0), ("after", 2.0)]
