"""Experiments in a real Chromium: starting, watching, reading and repeating them."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import Engine

from bench.support.synthetic import HOSTILE
from opd.experiments.definition import experiments
from opd.experiments.plan import Key
from storage.comparison import experiment_results
from storage.queue import jobs
from tests.browser.rollout.test_keyboard import LINKS_OF_THE_BAR, MOST_STOPS, tab, tab_to
from tests.browser.test_accessibility import at_rest, serious
from tests.conftest import TOKEN, opening, serving
from tests.support.databases.matrix import new_database
from tests.support.stored_experiments import (
    COLUMNS,
    FAST,
    SLOW,
    STEPS,
    Script,
    StoredExperiments,
    definition,
    fill,
    one_step_more,
    started,
)

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
TEXTS = ("title", "description", "question", "claim", "published", "shows", "limits")
CANARY = "window.__canary"
PLOT = ".exp-chart .js-plotly-plot"
SHOTS = os.environ.get("OPD_SHOTS")  # a folder: pictures of the pages, to be looked at


@dataclass(frozen=True)
class ExperimentSite:
    address: str
    engine: Engine
    stored: StoredExperiments

    def results(self, exp: str) -> dict[str, Any]:
        return experiment_results.experiment(self.engine, exp)


@pytest.fixture(scope="module")
def site(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ExperimentSite]:
    folder: Path = tmp_path_factory.mktemp("experiments")
    engine = new_database(folder)
    stored = fill(engine)
    with serving(folder) as address:
        yield ExperimentSite(address, engine, stored)
    engine.dispose()


@pytest.fixture(scope="module")
def guest(chromium: Any, site: ExperimentSite) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.request.get(f"{site.address}/?token={TOKEN}")
    yield context
    context.close()


@pytest.fixture
def visit(guest: Any, site: ExperimentSite) -> Iterator[Visit]:
    with opening(guest, site.address) as visit:
        yield visit


def drawn(page: Any) -> Any:
    page.wait_for_selector(f"{PLOT} .xtick")
    return page.locator(PLOT)


def lines(page: Any) -> dict[str, dict[str, Any]]:
    """What is drawn of each arm: its mean line."""
    script = "e => e.data.filter(t => t.meta).map(t => [t.meta.arm, {x: [...t.x], y: [...t.y]}])"
    return dict(drawn(page).evaluate(script))


def test_the_list_shows_what_can_be_run_and_what_was(visit: Visit, site: ExperimentSite) -> None:
    page = visit("/experiments")
    page.wait_for_selector(f'tr[data-experiment="{site.stored.done}"] .exp-outcome:has-text("×")')
    offered = page.locator("tbody[data-definition]")
    definitions = experiments()
    assert offered.count() == len(definitions)
    for item in definitions:
        row = page.locator(f'tbody[data-definition="{item.name}"]')
        assert item.title in row.inner_text() and item.question in row.inner_text()
        assert all(arm.label in row.inner_text() for arm in item.arms.values())
    for item in experiment_results.experiments(site.engine)["items"]:
        row = page.locator(f'tr[data-experiment="{item["id"]}"]')
        assert item["status"] in row.inner_text()
        assert f"{item['done']} / {item['total']}" in row.inner_text()
    missed = page.locator(f'tr[data-experiment="{site.stored.missed}"] .exp-outcome')
    expect(missed).to_contain_text("target not reached")
    page.locator(f'tr[data-experiment="{site.stored.done}"] a').click()
    page.wait_for_selector('tr[data-arm="opd"]')
    page.go_back()
    page.wait_for_selector(f'tr[data-experiment="{site.stored.done}"]')


def test_what_an_experiment_is_about_folds_out_and_stays_so(visit: Visit) -> None:
    page = visit("/experiments")
    item = experiments()[0]
    opener = page.locator(f"#exp-open-{item.name}")
    opener.press("Enter")
    expect(opener).to_have_attribute("aria-expanded", "true")
    expect(opener).to_be_focused()
    page.reload()
    expect(page.locator(f"#exp-more-{item.name}")).to_contain_text("Limitations")
    opener.click()
    expect(page.locator(f"#exp-more-{item.name}")).to_be_hidden()
    assert "open" not in page.url


def test_a_quick_look_is_started_once(visit: Visit, site: ExperimentSite) -> None:
    item = experiments()[0]
    before = experiment_results.experiments(site.engine)["total"]
    page = visit("/experiments")
    page.locator(f'tbody[data-definition="{item.name}"] [data-start="quick"]').dblclick()
    page.wait_for_url(re.compile(r"/experiment\?id=exp-[a-z0-9]+$"))
    exp = page.url.partition("id=")[2]
    results = site.results(exp)
    assert (results["name"], results["quick"], results["seeds"]) == (
        item.name,
        True,
        item.quick.seeds,
    )
    assert experiment_results.experiments(site.engine)["total"] == before + 1
    expect(page.locator("#exp-command")).to_have_text(f"opd experiment {item.name} --quick")
    page.click("#exp-cancel")
    page.wait_for_selector("#exp-resume")


def test_the_page_shows_what_the_interface_says(visit: Visit, site: ExperimentSite) -> None:
    results = site.results(site.stored.done)
    page = visit(f"/experiment?id={site.stored.done}")
    page.wait_for_selector("tr[data-arm]")
    assert page.locator("#exp-command").inner_text() == results["command"]
    body = page.inner_text("body")
    assert all(results[text] in body for text in TEXTS)
    for arm in results["arms"]:
        row = page.locator(f'tr[data-arm="{arm["name"]}"]')
        score = row.locator('[data-cell="score"]').inner_text()
        numbers = [float(n) / 100 for n in re.findall(r"[\d.]+", score)]
        assert numbers == pytest.approx([arm["score"], arm["low"], arm["high"]], abs=5e-4)
        for cost in ("steps", "tokens", "flops", "seconds"):
            title = row.locator(f'[data-cost="{cost}"]').get_attribute("title")
            assert float(title) == pytest.approx(arm[f"{cost}_to_target"])
        assert f"{arm['n']} / {results['seeds']}" in row.inner_text()
    for cost, ratio in results["ratios"].items():
        text = page.locator(f'[data-comparison="rl/opd"] [data-ratio="{cost}"]').inner_text()
        numbers = [float(n) for n in re.findall(r"[\d.]+", text)]
        assert numbers == pytest.approx([ratio["value"], ratio["low"], ratio["high"]], rel=0.06)
    drawn_lines = lines(page)
    for arm in results["arms"]:
        assert drawn_lines[arm["name"]]["x"] == pytest.approx(arm["curve"]["step"])
        assert drawn_lines[arm["name"]]["y"] == pytest.approx(arm["curve"]["y"])
    assert drawn(page).evaluate("e => e.layout.shapes.at(-1).y0") == pytest.approx(0.7)


def test_the_axis_is_in_the_address_and_a_reload_shows_the_same(
    visit: Visit, site: ExperimentSite
) -> None:
    page = visit(f"/experiment?id={site.stored.done}")
    drawn(page)
    for axis in ("tokens", "flops", "seconds"):
        page.select_option("#exp-x", axis)
        assert f"x={axis}" in page.url and f"id={site.stored.done}" in page.url
        page.reload()
        expect(page.locator("#exp-x")).to_have_value(axis)
        drawn_lines = lines(page)
        for arm in site.results(site.stored.done)["arms"]:
            assert drawn_lines[arm["name"]]["x"] == pytest.approx(arm["curve"][axis])
    page.select_option("#exp-x", "step")
    assert page.url.endswith(f"/experiment?id={site.stored.done}")


def test_the_tuning_and_every_run_lead_to_the_runs(visit: Visit, site: ExperimentSite) -> None:
    results = site.results(site.stored.done)
    page = visit(f"/experiment?id={site.stored.done}")
    page.wait_for_selector("tr[data-runs]")
    for arm in results["arms"]:
        row = page.locator(f'tr[data-runs="{arm["name"]}"]')
        ids = [run["id"] for run in arm["runs"]]
        hrefs = row.locator("[data-run]").evaluate_all(
            "all => all.map(e => e.getAttribute('href'))"
        )
        assert hrefs == [f"run?id={run_id}" for run_id in ids]
        compare = row.get_by_role("link", name="compare").get_attribute("href")
        assert compare == f"compare?runs={','.join(ids)}"
    choices = page.locator("tr[data-choice]")
    assert choices.count() == 2
    expect(page.locator("tr.exp-chosen")).to_have_attribute("data-choice", "opd/0")
    expect(page.locator("tr.exp-chosen")).to_contain_text("learning rate 0.001")
    expect(page.locator("tr.exp-chosen")).to_contain_text("chosen")
    row = page.locator('tr[data-choice="opd/1"]')
    criterion = results["arms"][1]["choices"][1]["criterion"]
    assert f"{criterion * 100:.1f}%" in row.inner_text()
    page.locator('tr[data-runs="opd"] [data-run]').first.click()
    page.wait_for_selector(".run-facts dd")


def test_a_target_that_was_not_reached_is_an_outcome(visit: Visit, site: ExperimentSite) -> None:
    results = site.results(site.stored.missed)
    assert [arm["reached"] for arm in results["arms"]] == [0, 3, 2]
    page = visit(f"/experiment?id={site.stored.missed}")
    expect(page.locator('tr[data-arm="sft"] .exp-never')).to_have_text("not reached")
    partly = page.locator('tr[data-arm="rl"] .exp-never')
    expect(partly).to_have_text("not reached by 1 of 3 seeds")
    assert page.locator('tr[data-arm="opd"] [data-cost]').count() == 4
    expect(page.locator('[data-comparison="sft/opd"]')).to_contain_text("no ratio")
    heads = page.locator('[aria-label="Result"] thead tr').last.locator("th").all_inner_texts()
    assert heads[2:4] == [column["label"] for column in COLUMNS]
    start = page.locator('tr[data-arm="start"] td').all_inner_texts()
    assert start[2:4] == ["30.5%", "89.8%"]
    for column in COLUMNS:
        cell = results["arms"][0]["cells"][column["metric"]]
        text = page.locator(f'tr[data-arm="sft"] [data-cell="{column["metric"]}"]').inner_text()
        assert text.startswith(f"{cell['value'] * 100:.1f}%")


def test_it_goes_on_by_itself_and_keeps_zoom_and_focus(visit: Visit, site: ExperimentSite) -> None:
    exp = site.stored.running
    run = next(
        run
        for arm in site.results(exp)["arms"]
        for run in arm["runs"]
        if run["status"] == "running"
    )
    page = visit(f"/experiment?id={exp}")
    link = page.locator(f'[data-run="{run["id"]}"]')
    entry = page.locator("li", has=link)
    expect(entry).to_contain_text(f"3 / {STEPS}")
    expect(page.locator('tr[data-arm="opd"]')).to_contain_text("1 / 3")
    expect(page.locator(".exp-now a")).to_have_attribute("href", f"run?id={run['id']}")
    drawn(page)
    plot = f"document.querySelector('{PLOT}')"
    page.evaluate(f"Plotly.relayout({plot}, {{'xaxis.range[0]': 1, 'xaxis.range[1]': 5}})")
    link.focus()
    one_step_more(site.engine, run["id"], 4, 0.9)
    expect(entry).to_contain_text(f"4 / {STEPS}")
    expect(link).to_be_focused()
    for step in range(5, STEPS + 1):
        one_step_more(site.engine, run["id"], step, 0.9)
    jobs.finish(site.engine, run["id"], 1, "finished")
    expect(page.locator('tr[data-arm="opd"]')).to_contain_text("2 / 3")
    expect(link).to_be_focused()
    assert page.evaluate(f"{plot}.layout.xaxis.range") == [1, 5]
    page.wait_for_function(f"{plot}.data.some(t => t.meta?.arm === 'opd' && t.customdata[1])")
    assert page.evaluate(f"{plot}.layout.xaxis.range") == [1, 5]


def test_cancel_and_resume(visit: Visit, site: ExperimentSite) -> None:
    script = Script({"rl": SLOW, "opd": FAST}, stops_at=Key("final", "rl", 0, 0))
    exp = started(site.engine, site.stored.definitions["full"], script)
    page = visit(f"/experiment?id={exp}")
    page.locator("#exp-cancel").press("Enter")
    expect(page.locator(".exp-head .status")).to_have_text("cancelled")
    expect(page.locator("#exp-resume")).to_be_focused()
    results = site.results(exp)
    assert results["status"] == "cancelled"
    run = results["arms"][0]["runs"][0]["id"]
    entry = page.locator("li", has=page.locator(f'[data-run="{run}"]'))
    expect(entry).to_contain_text(f"3 / {STEPS}")
    jobs.finish(site.engine, run, 1, "cancelled")  # its job has saved and is gone
    expect(entry).to_contain_text("cancelled")
    page.locator("#exp-resume").press("Enter")
    expect(page.locator(".exp-head .status")).to_have_text("running")
    assert site.results(exp)["status"] == "running"
    page.click("#exp-cancel")
    page.wait_for_selector("#exp-resume")


def test_hostile_texts_stay_text(visit: Visit, site: ExperimentSite) -> None:
    texts = [text.replace("\0", "") for text in HOSTILE]
    arms = {f"a{i}": {"label": text, "note": text} for i, text in enumerate(texts[:4])}
    hostile = definition(
        "hostile",
        **dict(zip(TEXTS, texts, strict=False)),
        arms=arms,
        pairs=[{"over": "a0", "under": "a1", "note": texts[8]}],
        columns=[{"metric": "heldout/pass@1", "label": texts[0][:60]}],
    )
    exp = started(site.engine, hostile, Script(dict.fromkeys(arms, FAST)), seeds=2)
    page = visit(f"/experiment?id={exp}&x=flops")
    drawn(page)
    box = page.locator(".exp-chart .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".exp-chart .hoverlayer text")
    hover = page.locator(".exp-chart .hoverlayer").text_content()
    assert "2 seeds" in hover and " low" not in hover
    assert texts[0] in page.inner_text(".exp-head h1")
    page.goto(f"{site.address}/experiments")
    page.wait_for_selector(f'tr[data-experiment="{exp}"] .exp-outcome:has-text("×")')
    assert page.evaluate(CANARY) is None


def test_what_is_missing_says_so(guest: Any, site: ExperimentSite) -> None:
    page = guest.new_page()  # whose console may name the answers that refuse
    page.goto(f"{site.address}/experiment")
    page.wait_for_selector("[role=alert]:has-text('The address names no experiment')")
    page.goto(f"{site.address}/experiment?id=exp-none")
    page.wait_for_selector("[role=alert]:has-text('no such experiment')")
    page.close()


PAGES: dict[str, tuple[Callable[[ExperimentSite], str], str]] = {
    "list": (lambda site: "/experiments", "tr[data-experiment]"),
    "done": (lambda site: f"/experiment?id={site.stored.done}", f"{PLOT} .xtick"),
    "missed": (lambda site: f"/experiment?id={site.stored.missed}&x=flops", f"{PLOT} .xtick"),
}


@pytest.mark.parametrize("name", PAGES)
def test_tab_goes_around_and_is_seen_at_each_stop(
    visit: Visit, site: ExperimentSite, name: str
) -> None:
    path, ready = PAGES[name]
    page = visit(path(site))
    page.wait_for_selector(ready)
    count = 0
    while (stop := tab(page)) is not None and (count == 0 or not stop["first"]):
        count += 1
        assert count < MOST_STOPS, "it does not end"
    assert count > LINKS_OF_THE_BAR


def test_a_full_experiment_starts_by_keyboard(visit: Visit, site: ExperimentSite) -> None:
    page = visit("/experiments")
    tab_to(page, '[data-start="full"]')
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/experiment\?id=exp-"))
    tab_to(page, "#exp-cancel")
    page.keyboard.press("Enter")
    page.wait_for_selector("#exp-resume")
    assert site.results(page.url.partition("id=")[2])["quick"] is False


@pytest.mark.parametrize("name", PAGES)
def test_nothing_serious_is_wrong_for_those_who_see_little_and_none_is_too_wide(
    visit: Visit, site: ExperimentSite, name: str
) -> None:
    path, ready = PAGES[name]
    page = visit(path(site))
    page.wait_for_selector(ready)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert serious(page) == [], scheme
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/test-{name}-{scheme}.png", full_page=True)
    for width in (1920, 1280, 640):
        page.set_viewport_size({"width": width, "height": 800})
        at_rest(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
