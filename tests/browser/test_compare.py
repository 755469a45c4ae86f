"""Runs side by side, choosing them, and being told of their end, in a real Chromium."""

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from bench.fill import NAMES, STEPS
from opd.errors import ErrorKind
from opd.types import EvaluationEvent, Score
from storage.comparison.compare import ComparisonQuery, comparison, shared_prompts
from storage.queue import jobs
from storage.read.runs import read_runs
from tests.browser.test_pages import LiveRun

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
CANARY = "window.__canary"
FAKE = """(permission) => {
    window.Notification = class {
        static permission = permission;
        constructor(title, more) { (window.__shown ??= []).push(`${title}|${more.body}`); }
    };
}"""
KL = '[data-chart="reverse_kl"]'


def ids(site: Any, count: int = 3) -> list[str]:
    """Filled runs, whatever other tests have called or added since."""
    runs = read_runs(site.engine, limit=50)["items"]
    return [run["id"] for run in runs if run["step"] == STEPS][:count]


def drawn(page: Any, chart: str) -> None:
    page.wait_for_selector(f"{chart} .js-plotly-plot .xtick")


def data(page: Any, chart: str) -> Any:
    script = (
        "e => e.data.map(t => ({y: [...t.y], x: [...t.x], run: t.meta?.run, width: t.line.width}))"
    )
    return page.locator(f"{chart} .js-plotly-plot").evaluate(script)


def test_the_page_shows_what_the_interface_says(open_page: Visit, site: Any) -> None:
    runs = ids(site)
    query = ComparisonQuery(runs, x="tokens", target=0.8, baseline=runs[1], smoothing=0.5)
    answer = comparison(site.engine, query)
    path = f"/compare?runs={','.join(runs)}&x=tokens&target=0.8&baseline={runs[1]}&smooth=0.5"
    page = open_page(path)
    for item in answer["reach"]["items"]:
        row = page.locator(f'[data-reach="{item["run"]}"]')
        for axis, cost in (item["costs"] or {}).items():
            title = row.locator(f'[data-axis="{axis}"]').get_attribute("title")
            assert float(title) == pytest.approx(cost)
            ratio = row.locator(f'[data-ratio="{axis}"]').inner_text()
            assert float(ratio.rstrip("×")) == pytest.approx(item["ratio"][axis], rel=0.01)
        assert row.locator("input[type=radio]").is_checked() == (item["run"] == runs[1])
    assert page.locator("#cmp-said").inner_text().startswith("Score, pass@1 of the main suite ≥ 80")
    fields = page.locator("tr[data-field]").evaluate_all("rows => rows.map(r => r.dataset.field)")
    assert fields == [f["field"] for f in answer["differences"]["fields"]]
    assert f"{answer['differences']['equal']} equal fields" in page.inner_text("body")
    drawn(page, KL)
    [score, kl] = answer["charts"]
    for chart, one in (('[data-chart="score"]', score), (KL, kl)):
        lines = {t["run"]: t for t in data(page, chart) if t["run"]}
        for curve in one["curves"]:
            assert lines[curve["run"]]["x"] == pytest.approx(curve["x"])
            assert lines[curve["run"]]["y"] == pytest.approx(curve["smooth"])


def test_choices_are_in_the_address_and_a_reload_shows_the_same(
    open_page: Visit, site: Any
) -> None:
    page = open_page(f"/compare?runs={','.join(ids(site, 2))}")
    drawn(page, KL)
    page.select_option("#cmp-x", "seconds")
    page.select_option("#cmp-y", "eval/greedy/pass@1")
    page.check("#cmp-logy")
    page.check("#cmp-group")
    page.select_option("#cmp-band", "standard_error")
    page.fill("#cmp-target", "0.7")
    page.check("#cmp-interpolate")
    page.locator("#cmp-smooth").evaluate(
        "e => { e.value = 0.8; e.dispatchEvent(new Event('input')); }"
    )
    page.wait_for_function("location.search.includes('smooth=0.8')")
    page.wait_for_function("location.search.includes('target=0.7')")
    page.wait_for_selector("#cmp-said:has-text('70.0%'):has-text('interpolated')")
    before = page.locator("#cmp-said").inner_text()
    page.reload()
    drawn(page, '[data-chart="eval/greedy/pass@1"]')
    assert page.locator("#cmp-said").inner_text() == before
    assert page.locator("#cmp-x").input_value() == "seconds"
    assert page.locator("#cmp-smooth").input_value() == "0.8"
    assert page.locator("#cmp-band").input_value() == "standard_error"
    for name in ("logy", "group", "interpolate"):
        assert page.locator(f"#cmp-{name}").is_checked(), name
    layout = page.locator(f"{KL} .js-plotly-plot").evaluate("e => e.layout.yaxis.type")
    assert layout == "log"


def test_runs_are_chosen_on_the_page_of_runs_and_by_name(open_page: Visit, site: Any) -> None:
    first, second, third = ids(site)
    page = open_page("/")
    page.locator(f'tr[data-run="{first}"] input').check()
    page.locator(f'tr[data-run="{second}"] input').check()
    page.click("#compare")
    page.wait_for_selector(f'tr[data-compared="{second}"]')
    assert f"runs={first},{second}" in page.url
    page.fill("#add-run", third)
    page.click(f'[data-offer="{third}"]')
    page.wait_for_selector(f'tr[data-compared="{third}"]')
    page.locator(f'tr[data-compared="{first}"]').get_by_role("button").click()
    page.wait_for_selector(f'tr[data-compared="{first}"]', state="detached")
    assert f"runs={second},{third}" in page.url
    link = page.locator("#compare-csv").get_attribute("href")
    lines = page.evaluate(
        "async (href) => (await (await fetch(href)).text()).split('\\r\\n')", link
    )
    assert [line.split(",")[0] for line in lines[1:-1]] == [second, third]


def test_zoom_stays_over_a_live_update(open_page: Visit, site: Any) -> None:
    live = LiveRun(site)
    for step in (1, 2, 3, 4):
        live.step(step)
    page = open_page(f"/compare?runs={live.run_id},{ids(site, 1)[0]}")
    drawn(page, KL)
    box = page.locator(f"{KL} .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 40, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 160, box["y"] + box["height"] - 20, steps=5)
    page.mouse.up()
    plot = f"document.querySelector('{KL} .js-plotly-plot')"
    page.wait_for_function(f"{plot}.layout.xaxis.autorange === false")
    zoomed = page.evaluate(f"{plot}.layout.xaxis.range")
    live.step(5)
    page.wait_for_function(f"{plot}.data[0].x.length === 5")
    assert page.evaluate(f"{plot}.layout.xaxis.range") == zoomed
    page.select_option("#cmp-x", "tokens")  # another axis: the zoom of steps means nothing on it
    page.wait_for_function(f"{plot}.layout.xaxis.autorange !== false")
    live.end()


def test_what_is_missing_says_so(open_page: Visit, visitor: Any, site: Any) -> None:
    page = open_page("/compare")
    page.wait_for_selector("text=No runs selected")
    page.locator("[data-offer]").first.click()
    page.wait_for_selector("tr[data-compared]")
    [run_id] = ids(site, 1)
    page = visitor.new_page()  # whose console may name the answers that refuse
    page.goto(site.link(f"/compare?y=no+such&runs={run_id}"))
    page.wait_for_selector("[role=alert]:has-text(\"no run has 'no such'\")")
    page.goto(site.link(f"/compare?runs={run_id},run-gone"))
    page.get_by_role("button", name="Compare without run-gone").click()
    page.wait_for_selector("tr[data-compared]")
    assert "run-gone" not in page.url
    page.close()


def test_hostile_names_stay_text(open_page: Visit, site: Any) -> None:
    items = read_runs(site.engine, limit=100)["items"]  # those of other tests among them
    filled = [r for r in items if r["name"] in NAMES or r["name"].startswith("word problems")]
    assert any(run["name"] in NAMES for run in filled[:12])
    chosen = ",".join(run["id"] for run in filled[:12])
    page = open_page(f"/compare?runs={chosen}&group=1&y=reward")
    drawn(page, KL)
    box = page.locator(f"{KL} .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(f"{KL} .hoverlayer text")
    assert page.evaluate(CANARY) is None


def test_shared_prompts_open_both_rollouts(open_page: Visit, site: Any) -> None:
    one, other = LiveRun(site), LiveRun(site)
    for live in (one, other):
        live.step(1)
    shared = shared_prompts(site.engine, [one.run_id, other.run_id])
    assert shared["total"] == 1  # both are written from one seed
    [item] = shared["items"]
    page = open_page(f"/compare?runs={one.run_id},{other.run_id}")
    mine, theirs = (item["rollouts"][live.run_id]["id"] for live in (one, other))
    href = page.locator(f'[data-beside="{theirs}"] a').get_attribute("href")
    assert href == f"rollout?id={mine}&with={theirs}"
    for live in (one, other):
        live.end()


def test_a_notification_at_the_end_of_a_run(open_page: Visit, site: Any) -> None:
    live = LiveRun(site)
    live.store.evaluation(EvaluationEvent(0, [Score("s", "pass@1", 0.5, 9, 0.1)]), lambda _: {})
    page = open_page(f"/run?id={live.run_id}")
    page.evaluate(FAKE, "granted")
    page.click("#notify")
    assert page.locator("#notify").get_attribute("aria-pressed") == "true"
    jobs.finish(
        site.engine, live.run_id, live.attempt, "failed", jobs.Failure(ErrorKind.NAN_LOSS, "")
    )
    page.wait_for_function("window.__shown?.length")
    assert page.evaluate("window.__shown") == ["live: failed|step 0 of 9 · score 50% · nan loss"]
    page.wait_for_timeout(2_000)
    assert page.evaluate("window.__shown.length") == 1


def test_a_mark_in_the_title_where_notifications_are_denied(open_page: Visit, site: Any) -> None:
    live = LiveRun(site)
    page = open_page("/")
    page.wait_for_selector(f'tr[data-run="{live.run_id}"]')
    page.evaluate(FAKE, "denied")
    page.click("#notify")
    expect(page.locator(".notify-state")).to_contain_text("blocks notifications")
    live.end()
    page.wait_for_function("document.title.startsWith('● finished')")
    page.click("h1")
    page.wait_for_function("document.title === 'Runs · OPD Studio'")
