"""The charts of a run's page and of Compare, in a real Chromium: scales, smoothing, level lines."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import update

from opd.types import EvaluationCount, EvaluationEvent, MissingPrompts, Score, StepEvent
from storage import schema
from storage.comparison.curves import smoothed
from storage.engine import begin
from storage.queue import jobs, run_details
from tests.support import stored_runs

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
STEPS = 12


MADE: list[str] = []  # runs of the test


@pytest.fixture(autouse=True)
def _tidy(site: Any) -> Iterator[None]:
    """Other tests of this site compare its newest runs."""
    yield
    while MADE:
        run_details.delete_run(site.engine, MADE.pop())


def stored(engine: Any, metrics: Mapping[str, float], *, steps: int = STEPS, **more: Any) -> str:
    """A finished run of these metrics; one that is callable is of the step."""
    name = f"charts {len(metrics)} {steps} {sorted(more)}"
    run_id, writer = stored_runs.started(engine, name, name=name, steps=steps)
    first = [Score("heldout", "pass@1", 0.5, 40, 0.08)]
    if "teacher" in more:
        first.append(Score("heldout", "teacher_pass@1", more["teacher"], 40, 0.05))
    writer.evaluation(EvaluationEvent(0, first), stored_runs.texts)
    for step in range(1, steps + 1):
        values = {name: v(step) if callable(v) else v for name, v in metrics.items()}
        event = StepEvent(step, {"sample": 1.0}, 10, 1e9, values, [])
        writer.step(event, stored_runs.texts)
    jobs.finish(engine, run_id, 1, "finished")
    MADE.append(run_id)
    return run_id


def chart(page: Any, name: str) -> Any:
    plot = page.locator(f'[data-chart="{name}"] .js-plotly-plot')
    plot.locator(".xtick").first.wait_for()
    return plot


def lines(page: Any, name: str) -> Any:
    script = "e => e.data.map(t => ({y: [...t.y], name: t.name, opacity: t.opacity ?? 1}))"
    return chart(page, name).evaluate(script)


def test_smoothing_keeps_the_raw_curve_and_is_that_of_compare(open_page: Visit, site: Any) -> None:
    run_id = stored(site.engine, {"reverse_kl": lambda s: 1 / s, "student_entropy": 0.5})
    page = open_page(f"/run?id={run_id}")
    chart(page, "Reverse KL")
    expect(page.locator(".curve-method")).to_be_hidden()
    page.locator("#run-smooth").evaluate(
        "e => { e.value = 0.8; e.dispatchEvent(new Event('input')); }"
    )
    page.wait_for_function("location.search.includes('smooth=0.8')")
    expect(page.locator(".curve-method")).to_contain_text("exponential moving average")
    page.reload()
    expect(page.locator("#run-smooth")).to_have_value("0.8")
    raw, smooth = lines(page, "Reverse KL")
    values = [1 / step for step in range(1, STEPS + 1)]
    assert raw["y"] == pytest.approx(values) and raw["opacity"] < 0.5
    assert smooth["y"] == pytest.approx(smoothed(values, 0.8)) and smooth["opacity"] == 1
    assert (
        page.locator('[data-chart="Time by phase"] .plot-note').inner_text().startswith("Stacked")
    )
    page = open_page(f"/compare?runs={run_id}&smooth=0.8")
    assert [t["y"] for t in lines(page, "reverse_kl")] == [
        pytest.approx(values),
        pytest.approx(smoothed(values, 0.8)),
    ]


def test_a_log_axis_says_what_it_leaves_out(open_page: Visit, site: Any) -> None:
    metrics = {"reverse_kl": lambda s: 1 / s, "loss": lambda s: float(s - 3)}
    run_id = stored(site.engine, metrics)
    page = open_page(f"/run?id={run_id}")
    page.click(".more-charts > summary")
    assert chart(page, "Loss").evaluate("e => e.layout.yaxis.type") == "linear"
    page.check("#run-logy")
    page.wait_for_function("location.search.includes('logy=1')")
    note = page.locator('[data-chart="Loss"] .plot-note')
    expect(note).to_have_text("3 values ≤ 0 are not drawn on the log axis")
    for name in ("Loss", "Reverse KL"):
        assert chart(page, name).evaluate("e => e.layout.yaxis.type") == "log"
    assert lines(page, "Loss")[0]["y"][:4] == [None, None, None, 1]
    expect(page.locator('[data-chart="Reverse KL"] .plot-note')).to_have_text("")


@pytest.mark.parametrize("steps", [STEPS, 1])
def test_constants_and_single_points_have_sensible_axes(
    open_page: Visit, site: Any, steps: int
) -> None:
    metrics = {"reverse_kl": 0.5, "completion_tokens": 0.0, "loss": -0.25, "same_top": 0.0}
    page = open_page(f"/run?id={stored(site.engine, metrics, steps=steps)}")
    page.click(".more-charts > summary")
    expected = {
        "Reverse KL": [0, 0.75],
        "Completion length": [0, 1],
        "Loss": [-0.375, -0.125],
        "Finished and top-1 agreement": [0, 1.02],
    }
    for name, limits in expected.items():
        plot = chart(page, name)
        assert plot.evaluate("e => e.layout.yaxis.range") == pytest.approx(limits), name
        ticks = plot.locator(".ytick").all_text_contents()
        assert len(ticks) == len(set(ticks)) >= 3, name
        ticks = plot.locator(".xtick").all_text_contents()
        assert ticks == ["1"] if steps == 1 else len(set(ticks)) == len(ticks) > 1


def test_values_that_are_no_numbers_are_counted(open_page: Visit, site: Any) -> None:
    metrics = {
        "reverse_kl": lambda s: math.nan if s in (2, 3) else 1 / s,
        "loss": lambda s: math.inf,
    }
    run_id = stored(site.engine, metrics)
    page = open_page(f"/run?id={run_id}")
    page.click(".more-charts > summary")
    said = "2 values were NaN or infinite and cannot be drawn"
    expect(page.locator('[data-chart="Reverse KL"] .plot-note')).to_have_text(said)
    assert lines(page, "Reverse KL")[0]["y"][:4] == [1, None, None, 0.25]
    expect(page.locator('[data-chart="Loss"] .plot-empty')).to_have_text(
        "Every value was NaN or infinite"
    )
    page = open_page(f"/compare?runs={run_id}")
    expect(page.locator('[data-chart="reverse_kl"] .plot-note')).to_have_text(said)


def test_the_teachers_own_score_is_a_dashed_line(open_page: Visit, site: Any) -> None:
    run_id = stored(site.engine, {"reverse_kl": 0.5}, teacher=0.86)
    other = stored(site.engine, {"reverse_kl": 0.5, "loss": 0.1})
    script = "e => e.layout.shapes.map(s => [s.y0, s.y1, s.line.dash, s.label.text])"
    page = open_page(f"/run?id={run_id}")
    assert chart(page, "Score").evaluate(script) == [[0.86, 0.86, "dash", "teacher 86% (n = 40)"]]
    page = open_page(f"/compare?runs={other},{run_id}")
    shapes = chart(page, "score").evaluate(script)
    assert [0.86, 0.86, "dash", "teacher of B 86% (n = 40)"] in shapes
    low, high = chart(page, "score").evaluate("e => e.layout.yaxis.range")
    assert low < 0.5 and high > 0.86  # the line is within the chart
    offered = page.locator("#cmp-y option").evaluate_all("e => e.map(o => o.value)")
    assert "eval/heldout/pass@1" in offered and not any("teacher_pass" in o for o in offered)
    page = open_page(f"/run?id={other}")
    assert chart(page, "Score").evaluate(script) == []


def test_each_metric_is_explained_by_mouse_and_keyboard(open_page: Visit, site: Any) -> None:
    run_id = stored(site.engine, {"reverse_kl": 0.5, "loss": 0.1, "my_metric": 1.0})
    page = open_page(f"/run?id={run_id}")
    page.click(".more-charts > summary")
    figure = page.locator('[data-chart="Reverse KL"]')
    mark = figure.get_by_role("button", name="About Reverse KL")
    assert "How far the student" in mark.get_attribute("title")
    mark.focus()
    page.keyboard.press("Enter")
    expect(figure.locator(".chart-help")).to_contain_text("How far the student")
    assert mark.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    expect(figure.locator(".chart-help")).to_be_hidden()
    chart = page.locator('[data-chart="my metric"]')
    expect(chart).to_be_visible()
    assert chart.get_by_role("button", name="About").count() == 0


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_tool_bar_covers_no_legend(open_page: Visit, site: Any, width: int) -> None:
    run_id = stored(
        site.engine, {"reverse_kl": 0.5, "student_entropy": 1.0, "teacher_entropy": 0.5}
    )
    page = open_page(f"/run?id={run_id}")
    page.set_viewport_size({"width": width, "height": 900})
    for name in ("Entropy", "Time by phase"):
        plot = chart(page, name)
        plot.scroll_into_view_if_needed()
        plot.hover()
        bar = plot.locator(".modebar").bounding_box()
        legend = plot.locator(".legend > .bg").first.bounding_box()
        assert bar["height"] > 0 and bar["y"] + bar["height"] <= legend["y"] + 1
        element = "([x, y]) => document.elementFromPoint(x, y)?.closest('.modebar') !== null"
        at = [bar["x"] + bar["width"] / 2, bar["y"] + bar["height"] / 2]
        assert page.evaluate(element, at)


def test_system_curves_are_folded_and_over_time(open_page: Visit, site: Any) -> None:
    run_id = stored(site.engine, {"reverse_kl": 0.5, "reward": 1.0})
    page = open_page(f"/run?id={run_id}")
    chart(page, "Reverse KL")
    expect(page.locator("#system")).to_be_hidden()  # nothing was sampled

    columns = {
        "time": [1000.0, 1060.0, 4000.0, 4060.0],
        "every": [60.0] * 4,
        "system/cpu": [0.5, 0.75, 0.5, 1.0],
        "system/process_cpu": [1.0, 1.5, 1.0, 2.0],
        "system/process_memory": [2.0**30, 2.0**31, 2.0**30, 2.0**31],
        "system/memory": [2.0**32] * 4,
    }
    page.route("**/system", lambda route: route.fulfill(json={"columns": columns}))
    page.reload()
    page.click("#system > summary")
    plot = chart(page, "Memory")
    drawn = plot.evaluate("e => e.data.map(t => ({name: t.name, x: [...t.x], y: [...t.y]}))")
    assert drawn[0] == {"name": "run", "x": [0, 1, 50, 51], "y": [1, 2, None, 2]}  # a pause
    expect(page.locator('[data-chart="GPU use"]')).to_be_hidden()
    expect(page.locator('[data-chart="Memory"] .plot-now')).to_have_text("2.00  ·  4.00")
    expect(page.locator('[data-chart="Memory"] figcaption')).to_contain_text("GiB, over minutes")
    assert page.locator('[data-chart="Processor, run"] .plot-now').inner_text() == "2.00"


def test_fewer_evaluation_prompts_than_asked_for_are_said(open_page: Visit, site: Any) -> None:
    run_id = stored(site.engine, {"loss": 1.0})
    missing = (MissingPrompts("eval_share", 190, "not held out: of 100 rows is 10", "raise it"),)
    counts = [
        EvaluationCount("heldout", "evaluation.prompts", 200, 10, missing),
        EvaluationCount("whole", "evaluation.suites.whole.count", 5, 5),
    ]
    with begin(site.engine) as connection:
        row = update(schema.run).where(schema.run.c.id == run_id)
        connection.execute(row.values(evaluation_prompts=[asdict(count) for count in counts]))
    page = open_page(f"/run?id={run_id}")
    chart(page, "Score")
    text = "10 of 200 held-out prompts: 190 not held out: of 100 rows is 10"
    note = page.locator('[data-chart="Score"] .plot-note')
    note.get_by_text(text).wait_for()
    short = page.locator(".run-facts").get_by_text("n = 10")
    assert short.get_attribute("title") == text
