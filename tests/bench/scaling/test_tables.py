"""The tables of docs/scaling.md are those of the model, which keeps to what was measured."""

import re

import pytest

from bench.scaling import plan
from bench.scaling.__main__ import DOCUMENT, replaced
from bench.scaling.cases import CASES, MeasuredStep, nested
from bench.scaling.fit import compared, fitted, positive_least_squares, simulated_seconds
from bench.scaling.tables import TABLES, read_measured

CONTRADICTING = {"32 × 4, two processes, sharded"}  # told in the document


@pytest.mark.parametrize("name", TABLES)
def test_the_document_has_the_table_as_it_is_computed(name: str) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert replaced(text, name, TABLES[name]()) == text, "run: python -m bench.scaling"


def test_a_table_without_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the table: rates"):
        replaced("# Scaling\n", "rates", "")


def test_what_was_measured_is_predicted_but_for_what_the_document_names() -> None:
    measured = read_measured()
    rates = fitted(measured)
    off = {}
    for case in CASES:
        predicted, seen = compared(case, measured[case.name], rates)
        simulated = simulated_seconds(case, measured, rates)
        off[case.name] = max(abs(s / seen["total"] - 1) for s in (predicted["total"], simulated))
    assert {name for name, error in off.items() if error > 0.15} == CONTRADICTING
    assert all(name in DOCUMENT.read_text(encoding="utf-8") for name in off)


def test_factors_are_found_again_and_none_is_below_zero() -> None:
    rows = [(1.0, 2.0, 0.5), (4.0, 1.0, 2.0), (2.0, 7.0, 1.0), (3.0, 3.0, 9.0)]
    seconds = [3 * a + 0.25 * b for a, b, _ in rows]
    assert positive_least_squares(rows, seconds) == pytest.approx([3.0, 0.25, 0.0], abs=1e-9)
    assert positive_least_squares([(1.0,), (2.0,)], [-1.0, -2.0]) == [0.0]


def test_repeated_steps_keep_the_quickest_and_others_are_refused() -> None:
    step = MeasuredStep({"sample": 2.0, "teacher": 1.0}, 4.0, [3], [5])
    again = MeasuredStep({"sample": 1.0, "teacher": 3.0}, 5.0, [3], [5])
    kept = step.quickest(again)
    assert kept == MeasuredStep({"sample": 1.0, "teacher": 1.0}, 4.0, [3], [5])
    with pytest.raises(ValueError, match="other completions"):
        step.quickest(MeasuredStep({"sample": 1.0, "teacher": 3.0}, 5.0, [3], [6]))


def test_settings_of_cases_are_valid() -> None:
    for case in CASES:
        assert nested(case.whole).sampling.group_size == case.whole["sampling.group_size"]


def test_memory_is_the_products_own_plan_of_models_of_that_size() -> None:
    estimates = plan.memory()
    assert not any(estimate.unknown for estimate in estimates.values())
    weights = {p.name: p.bytes for p in estimates["all weights, 1 GPU"].parts}
    assert weights["student's weights"] == 8_190_735_360 * 4
    assert weights["teacher: weights"] == 32_762_123_264 * 2
    assert (
        estimates["all weights, 8 GPUs, layers cut"].device < estimates["all weights, 1 GPU"].device
    )


def test_a_group_of_lengths_stays_below_its_limit() -> None:
    lengths = [n for _, completions in plan.drawn(0) for n in completions]
    assert len(lengths) == plan.PROMPTS * plan.GROUP
    assert max(lengths) <= plan.LIMIT and min(lengths) >= 1
    assert 900 < sorted(lengths)[len(lengths) // 2] < 1100
    assert re.search(r"64 prompts × 8 completions", DOCUMENT.read_text(encoding="utf-8"))
