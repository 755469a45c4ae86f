"""The pages in a real Chromium, against the numbers in the database."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from bench.support.synthetic import HOSTILE, RolloutMaker
from opd.config.run import parse
from opd.types import ModelsEvent, StepEvent
from storage.insights.hot_tokens import read_hot_tokens
from storage.queue import jobs, run_details
from storage.read.rollouts import ABSENT, read_rollout, read_rollouts
from storage.read.runs import read_run, read_runs
from storage.read.tokens import EXTRA_COLUMNS, MAIN_COLUMNS, read_tokens, read_topk
from storage.write.records import RunWriter

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
CANARY = "window.__canary"
LEAST_CONTRAST = """async () => {
    const { contrast } = await import("./static/lib/palette.js");
    const byte = (v) => Number(v).toString(16).padStart(2, "0");
    const hex = (text) => "#" + text.match(/\\d+/g).map(byte).join("");
    const rules = document.adoptedStyleSheets.flatMap((sheet) => [...sheet.cssRules]);
    return Math.min(
        ...rules.map(({ style }) => contrast(hex(style.backgroundColor), hex(style.color))));
}"""


def worst_rollout(site: Any, **filters: Any) -> str:
    page = read_rollouts(site.engine, site.run_id, sort="-kl_max", limit=1, **filters)
    return str(page["items"][0]["id"])


def longest(site: Any) -> dict[str, Any]:
    item: dict[str, Any] = read_rollouts(site.engine, site.run_id, sort="-tokens", limit=1)[
        "items"
    ][0]
    return item


def columns(site: Any, rollout_id: str) -> dict[str, np.ndarray]:
    names = (*MAIN_COLUMNS, *EXTRA_COLUMNS)
    return read_tokens(site.engine, rollout_id, names).columns


def shown(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def test_token_view_shows_the_stored_numbers(open_page: Visit, site: Any) -> None:
    rollout_id = worst_rollout(site)
    stored = columns(site, rollout_id)
    page = open_page(f"/rollout?id={rollout_id}")
    view = page.locator("#token-view")
    assert view.get_attribute("data-tokens") == str(len(stored["completion_ids"]))
    for position in (0, 3, int(np.argmax(stored["reverse_kl"]))):
        page.locator(f'[data-index="{position}"]').first.click()
        page.wait_for_selector(f'#token-detail[data-index="{position}"]')
        page.wait_for_function(
            "document.querySelector('#token-detail').innerText.includes('entropy')"
        )
        text = page.locator("#token-detail").inner_text()
        for name in ("reverse_kl", "student_logprobs", "teacher_logprobs", "student_entropy"):
            assert shown(float(stored[name][position])) in text, name
        assert f"id {stored['completion_ids'][position]} " in text
        assert f"pos={position}" in page.url


def test_alternatives_and_the_sentence(open_page: Visit, site: Any) -> None:
    rollout_id = worst_rollout(site)
    position = int(np.argmax(columns(site, rollout_id)["reverse_kl"]))
    alternatives = read_topk(site.engine, rollout_id, position, 1)[0]
    page = open_page(f"/rollout?id={rollout_id}&pos={position}")
    page.wait_for_selector("#token-detail .alt-row.sampled")
    rows = page.locator("#token-detail .alt-row:not(.alt-head):not(.alt-rest)").count()
    assert rows == len(
        {
            e["id"]
            for e in (alternatives["token"], *alternatives["student"], *alternatives["teacher"])
        }
    )
    shares = page.locator("#token-detail .alt-row:not(.alt-head) > .num").all_inner_texts()
    parts = [float(s.strip("%").replace("<1", "0").replace("−", "-")) for s in shares]
    assert sum(parts) == pytest.approx(100, abs=6)
    sentence = page.locator("#token-detail .dt-say").inner_text()
    assert re.match(
        r"Teacher (?:wanted|leaned to) “.+” \(.+\); the student wrote “.+” \(.+, teacher .+\)\.",
        sentence,
    )


def test_n_and_p_go_through_the_worst_tokens(open_page: Visit, site: Any) -> None:
    rollout_id = worst_rollout(site)
    order = np.argsort(-columns(site, rollout_id)["reverse_kl"], kind="stable")
    page = open_page(f"/rollout?id={rollout_id}")
    for index, key in ((0, "n"), (1, "n"), (2, "n"), (1, "p")):
        page.keyboard.press(key)
        page.wait_for_selector(f'#token-detail[data-index="{order[index]}"]')
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f'#token-detail[data-index="{order[1] + 1}"]')
    page.keyboard.press("Escape")
    page.wait_for_selector("#token-detail:not([data-index])")


def test_capital_n_goes_through_the_worst_tokens_of_the_run(open_page: Visit, site: Any) -> None:
    worst = read_hot_tokens(site.engine, site.run_id, limit=4)["items"]
    page = open_page(f"/rollout?id={longest(site)['id']}")
    for index, key in ((0, "N"), (1, "N"), (2, "N"), (1, "P")):
        page.keyboard.press(f"Shift+{key}")
        item = worst[index]
        page.wait_for_selector(
            f'#token-view[data-ready="true"][data-rollout="{item["rollout_id"]}"]'
        )
        page.wait_for_selector(f'#token-detail[data-index="{item["position"]}"]')
        expect(page.locator(".rt-head")).to_contain_text(f"worst token {index + 1} of")


def test_an_address_names_token_and_metric(open_page: Visit, site: Any) -> None:
    rollout_id = worst_rollout(site)
    page = open_page(f"/rollout?id={rollout_id}&pos=17&metric=log_ratio")
    assert page.locator(".tv-tok.pinned").get_attribute("data-index") == "17"
    assert page.locator("#metric").input_value() == "log_ratio"
    page.keyboard.press("m")
    page.wait_for_function("location.search.includes('metric=advantage')")
    assert "pos=17" in page.url


def test_j_and_k_stay_within_the_page(open_page: Visit, site: Any) -> None:
    items = read_rollouts(site.engine, site.run_id, sort="-kl_sum", limit=3)["items"]
    page = open_page(f"/rollout?id={items[0]['id']}")
    page.wait_for_function("document.querySelector('.rt-head').innerText.includes('1 of')")
    page.evaluate("window.__same = 1")
    for key, item in (("j", items[1]), ("j", items[2]), ("k", items[1])):
        page.keyboard.press(key)
        page.wait_for_selector(f'#token-view[data-ready="true"][data-rollout="{item["id"]}"]')
        assert f"id={item['id']}" in page.url
    page.go_back()
    page.wait_for_selector(f'#token-view[data-ready="true"][data-rollout="{items[2]["id"]}"]')
    assert page.evaluate("window.__same") == 1


def test_a_long_rollout_draws_only_what_is_in_view(open_page: Visit, site: Any) -> None:
    item = longest(site)
    assert item["tokens"] == 10_000
    page = open_page(f"/rollout?id={item['id']}")
    page.keyboard.press("End")
    page.wait_for_selector('[data-index="9999"].pinned')
    assert page.locator("[data-index]").count() < 5_000
    page.keyboard.press("/")
    page.keyboard.type("remain")
    page.wait_for_function("/1 of \\d+/.test(document.querySelector('.count').innerText)")
    assert page.locator(".tv-tok.hit").count() > 0


def test_the_text_has_one_tab_stop(open_page: Visit, site: Any) -> None:
    page = open_page(f"/rollout?id={worst_rollout(site)}&pos=5")
    assert page.locator('#token-view [tabindex="0"]').count() == 1
    active = page.locator(".tv-scroll").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"


def test_a_split_character_stays_whole(open_page: Visit, site: Any) -> None:
    rollout = read_rollouts(site.engine, site.run_id, text="🎉", limit=1)["items"][0]
    texts = read_tokens(site.engine, rollout["id"]).texts
    stored = columns(site, rollout["id"])["completion_ids"]
    first = next(i for i, t in enumerate(stored) if texts[int(t)].get("b") == "20f09f")
    page = open_page(f"/rollout?id={rollout['id']}&pos={first + 1}")
    assert page.locator(f'[data-index="{first}"]').inner_text().strip() == "🎉"
    position = page.locator("#token-detail .dt-position").inner_text()
    assert "part 2 of “🎉”, bytes 8e89" in position


def test_the_plain_text_is_the_stored_completion(open_page: Visit, site: Any) -> None:
    rollout_id = worst_rollout(site)
    page = open_page(f"/rollout?id={rollout_id}")
    page.click("#plain-text")
    plain = page.locator(".tv-plain")
    assert (
        plain.evaluate("e => e.textContent") == read_rollout(site.engine, rollout_id)["completion"]
    )
    assert not page.locator(".tv-scroll").is_visible()
    page.keyboard.press("Enter")  # the switch has the focus: back to the tokens
    page.locator(".tv-scroll").wait_for()
    assert not plain.is_visible() and page.locator(".tv-tok").count() > 0


def test_a_metric_that_cannot_be_shown_gives_its_reason(open_page: Visit, site: Any) -> None:
    live = LiveRun(site, advantages=False)
    live.step(1)
    rollout_id = read_rollouts(site.engine, live.run_id, limit=1)["items"][0]["id"]
    page = open_page(f"/rollout?id={rollout_id}&metric=advantage")
    option = page.locator('#metric option[value="advantage"]')
    assert option.is_disabled()
    assert ABSENT["advantages"] in option.inner_text()
    assert page.locator("#metric").input_value() == "reverse_kl"
    live.end()


def test_charts_keep_their_zoom_over_an_update(open_page: Visit, site: Any) -> None:
    live = LiveRun(site)
    for step in (1, 2, 3, 4):
        live.step(step)
    page = open_page(f"/run?id={live.run_id}")
    plot = page.locator('[data-chart="Reverse KL"] .js-plotly-plot')
    for _ in range(20):  # a chart that is laid out meanwhile forgets that it is dragged
        box = page.locator('[data-chart="Reverse KL"] .nsewdrag').bounding_box()
        page.mouse.move(box["x"] + 40, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + 160, box["y"] + box["height"] - 20, steps=5)
        page.mouse.up()
        page.wait_for_timeout(500)
        if plot.evaluate("e => e.layout.xaxis.autorange") is False:
            break
    assert plot.evaluate("e => e.layout.xaxis.autorange") is False
    zoomed = plot.evaluate("e => e.layout.xaxis.range")
    live.step(5)
    page.wait_for_function("document.querySelector('.js-plotly-plot').data[0].x.length === 5")
    assert plot.evaluate("e => e.layout.xaxis.range") == zoomed
    assert plot.evaluate("e => Math.max(...e.data[0].x)") == 5
    live.end()


def test_runs_can_be_found_renamed_and_brought_back(open_page: Visit, site: Any) -> None:
    page = open_page("/")
    page.wait_for_selector("tr[data-run]")
    page.get_by_label("Search runs").fill("word problems 1")
    page.wait_for_function("document.querySelectorAll('tr[data-run]').length === 1")
    row = page.locator("tr[data-run]")
    row.get_by_label("More actions").click()
    row.get_by_role("button", name="Edit").click()
    page.get_by_label("Tags", exact=True).fill("kept, <b>bold</b>")
    page.get_by_role("button", name="Save").click()
    page.wait_for_selector("text=<b>bold</b>")
    row.get_by_label("More actions").click()
    row.get_by_role("button", name="Delete").click()
    page.wait_for_selector("text=No runs match")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_selector("tr[data-run]")
    assert read_runs(site.engine, search="word problems 1")["items"][0]["tags"] == [
        "<b>bold</b>",
        "kept",
    ]


def test_a_problem_stands_beside_its_field_as_typed(open_page: Visit) -> None:
    page = open_page("/new")
    steps = page.locator('[data-field="steps"]')
    steps.locator("input").fill("0")
    page.wait_for_function(
        "document.querySelector('[data-field=steps] .bad-text').innerText.includes('1')"
    )
    assert page.locator("#start-run").is_disabled()
    assert steps.locator("input").get_attribute("aria-invalid") == "true"
    steps.locator("input").fill("7")
    page.wait_for_function("document.querySelector('#yaml').value.includes('7')")
    assert "steps=7" in page.get_by_label("Command").inner_text()
    assert steps.locator(".bad-text").inner_text() == ""


def test_a_choice_shows_its_help_and_its_fields(open_page: Visit) -> None:
    page = open_page("/new")
    page.click("details.more summary")
    row = lambda path: page.locator(f'[data-field="{path}"]')  # noqa: E731
    assert row("objective.clip").is_hidden()
    assert "whole vocabulary" in row("objective.name").inner_text()
    page.select_option("#field-objective-name", "grpo")
    assert row("objective.clip").is_visible()
    assert row("objective.beta").is_hidden()
    assert "Reward relative to the group" in row("objective.name").inner_text()
    page.select_option("#field-teacher-kind", "remote")
    assert row("teacher.url").is_visible()
    expect(row("teacher.kind").locator("[role=alert]")).to_be_empty()
    expect(row("teacher.url").locator("[role=alert]")).to_contain_text("needs its server")
    page.fill("#field-teacher-url", "http://localhost:8000/v1")
    expect(row("teacher.url").locator("[role=alert]")).to_be_empty()


def test_a_double_click_starts_one_run(open_page: Visit, site: Any) -> None:
    before = read_runs(site.engine)["total"]
    page = open_page("/new")
    page.locator('[data-field="name"] input').fill("from the browser")
    page.wait_for_function("!document.querySelector('#start-run').disabled")
    page.evaluate("for (let i = 0; i < 2; i++) document.querySelector('#start-run').click()")
    page.wait_for_url("**/run?id=run-*")
    page.wait_for_selector("text=queued")
    assert read_runs(site.engine)["total"] == before + 1
    run_id = page.url.rpartition("=")[2]
    assert read_run(site.engine, run_id)["name"] == "from the browser"
    jobs.request_cancel(site.engine, run_id, "discard")


def test_a_clone_shows_what_differs(open_page: Visit, site: Any) -> None:
    page = open_page(f"/new?from={site.run_id}")
    page.locator('[data-field="steps"] input').fill("33")
    row = page.locator(".difference tr", has_text="steps")
    row.wait_for()
    assert row.inner_text().split() == ["steps", "20", "33"]


def test_rollouts_are_sorted_and_filtered_by_the_server(open_page: Visit, site: Any) -> None:
    page = open_page(f"/rollouts?run={site.run_id}&step=3")
    page.wait_for_selector("tr[data-rollout]")
    page.get_by_role("button", name="max").click()
    page.wait_for_function("location.search.includes('sort=-kl_max')")
    expected = read_rollouts(site.engine, site.run_id, sort="-kl_max", step=3, limit=50)
    ids = [item["id"] for item in expected["items"]]
    page.wait_for_function(
        "first => document.querySelector('tr[data-rollout]').dataset.rollout === first", arg=ids[0]
    )
    listed = page.locator("tr[data-rollout]").evaluate_all(
        "rows => rows.map(r => r.dataset.rollout)"
    )
    assert listed == ids
    page.locator("tr[data-rollout] a").first.click()
    page.wait_for_selector('#token-view[data-ready="true"]')
    page.wait_for_function(
        "n => document.querySelector('.rt-head').innerText.includes(`1 of ${n} by KL max`)",
        arg=str(expected["total"]),
    )


def test_the_canary_can_fire(chromium: Any) -> None:
    page = chromium.new_page()
    page.set_content(f"<div>{HOSTILE[0]}</div>")
    page.wait_for_function(f"{CANARY} === 1")
    page.close()


def test_hostile_text_stays_text(open_page: Visit, site: Any) -> None:
    hostile = read_rollouts(site.engine, site.run_id, text="onerror", limit=1)["items"][0]["id"]
    failed = read_runs(site.engine, status="failed")["items"][0]["id"]
    tags = [text for text in HOSTILE if "\x1b" not in text]  # control characters are refused
    notes = " ".join(HOSTILE).replace("\0", "")
    change = run_details.RunEdit(name=HOSTILE[1], notes=notes, tags=tags)
    run_details.edit(site.engine, failed, change)
    for path in (
        "/",
        f"/run?id={failed}",
        f"/new?from={failed}",
        f"/rollouts?run={site.run_id}&text=onerror",
        f"/rollouts?run={site.run_id}&view=worst&step=20",
        f"/rollout?id={hostile}",
    ):
        page = open_page(path)
        page.wait_for_selector(".opd > *")
        page.wait_for_timeout(400)
        assert page.evaluate(CANARY) is None, path
    page = open_page(f"/rollout?id={hostile}")
    shown_tokens = page.locator("[data-index]").all_inner_texts()
    assert HOSTILE[0] in shown_tokens and HOSTILE[1] in shown_tokens and HOSTILE[3] in shown_tokens
    text = page.locator("#token-view").inner_text()
    assert "⟨202E⟩" in text and "⟨200B⟩" in text
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b]", text)
    for _ in range(8):
        page.keyboard.press("n")
        page.wait_for_selector("#token-detail .alt-row.sampled")
    assert page.evaluate(CANARY) is None


def test_every_tint_keeps_its_text_readable(open_page: Visit, site: Any) -> None:
    page = open_page(f"/rollout?id={worst_rollout(site)}")
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for palette in ("oranges", "cividis"):
            page.locator("#palette").select_option(palette)
            assert page.evaluate(LEAST_CONTRAST) >= 4.5, (scheme, palette)


class LiveRun:
    """A running run whose steps this test writes."""

    def __init__(self, site: Any, *, advantages: bool = True) -> None:
        self.engine = site.engine
        self.advantages = advantages
        self.run_id = jobs.create_run(self.engine, parse({"name": "live", "steps": 9}))
        owner = jobs.Owner(1, 0.0, "test")
        attempt = jobs.claim(self.engine, self.run_id, self.run_id, owner)
        assert attempt is not None
        self.attempt = attempt
        self.source = RolloutMaker(1)
        self.store = RunWriter(self.engine, self.run_id, attempt)
        self.store.models(ModelsEvent({}, f"live-{self.run_id}", "cpu"), {})

    def step(self, step: int) -> None:
        rollout = self.source.rollout(60, step=step, group=0, sample=0, fade=1.0)
        if not self.advantages:
            rollout = replace(rollout, record=replace(rollout.record, advantages=None))
        event = StepEvent(step, {"sample": 1.0}, 60, 1e9, {"reverse_kl": 1.0 / step}, [rollout])
        self.store.step(event, self.source.vocabulary.lookup)

    def end(self) -> None:
        jobs.finish(self.engine, self.run_id, self.attempt, "finished")


def test_a_gpu_s_memory_is_shown_where_there_is_one(open_page: Visit, site: Any) -> None:
    page = open_page(f"/run?id={site.run_id}")
    page.locator(".plot svg").first.wait_for()
    title = page.get_by_role("heading", name="GPU memory")
    assert not title.is_visible() and not page.get_by_text("GPU", exact=True).is_visible()

    def steps(route: Any) -> None:
        data = route.fetch().json()
        count = len(data["columns"].get("step", []))
        memory = {"memory_peak": [30.5e9] * count, "memory_reserved": [34e9] * count}
        route.fulfill(json=data | {"columns": data["columns"] | memory})

    def running(route: Any) -> None:
        state = {"status": "running", "slot": "cuda:0", "started_at": 1.0, "finished_at": None}
        route.fulfill(json=route.fetch().json() | state)

    gpu = {"slot": "cuda:0", "name": "NVIDIA H100", "total": 80e9, "free": 44e9, "use": 97.0}
    page.route(re.compile("/steps[?]"), steps)
    page.route(re.compile(f"/api/v1/runs/{site.run_id}$"), running)
    page.route(re.compile("/gpu$"), lambda route: route.fulfill(json=gpu))
    page.reload()
    expect(title).to_be_visible()
    figure = page.locator("figure", has=title)
    expect(figure.locator(".plot-now")).to_have_text("30.5  ·  34.0")
    figure.locator(".plot svg").first.wait_for()
    expect(page.locator(".run-facts")).to_contain_text("36 of 80 GB · 97%")


def test_gradios_own_view_shows_the_endpoints(visitor: Any, site: Any) -> None:
    page = visitor.new_page()  # not watched: the view asks for routes that are closed here
    page.goto(site.link("/endpoints"))
    page.get_by_role("button", name="Use via API").click()
    view = page.locator(".api-docs")
    for name in ("start_run", "rollout_tokens", "worst_tokens", "what_if", "doctor", "report"):
        expect(view.get_by_text(f"/{name}").first).to_be_visible()
    expect(view.get_by_text("name of a recipe").first).to_be_attached()
    page.close()
