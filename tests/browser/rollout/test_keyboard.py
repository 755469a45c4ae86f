"""Everything by keyboard: from launching a run to a shared token, and around every page."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run, read_runs
from storage.read.tokens import read_tokens, read_topk
from tests.support.trained_site import TrainedSite, visiting

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
SMALL = {  # in the order of the form
    "steps": "2",
    "prompts-count": "20",
    "prompts-probe": "0",
    "sampling-prompts_per_step": "4",
    "evaluation-prompts": "4",
}
# Navigation 6, skip link, place 3, neighbours, mark and sharing 4, answers, tools 9, the text
STOPS_TO_THE_TEXT = 25
LINKS_OF_THE_BAR = 6
MOST_STOPS = 400
FOCUS = """() => {
    const e = document.activeElement;
    if (e === document.body) return null;
    const style = getComputedStyle(e), box = e.getBoundingClientRect();
    const same = e === window.__before;
    window.__before = e;
    window.__first ??= e;
    return {
        same, first: e === window.__first,
        named: `${e.tagName} ${e.id} “${(e.ariaLabel ?? e.innerText ?? "").slice(0, 40)}”`,
        ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0,
        seen: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    };
}"""


def tab(page: Any, key: str = "Tab") -> dict[str, Any] | None:
    """One stop on: it must have moved, show a ring and be in view; None past the last one."""
    page.keyboard.press(key)
    focus: dict[str, Any] | None = page.evaluate(FOCUS)
    if focus is not None:
        assert not focus["same"], f"trapped at {focus['named']}"
        assert focus["ring"], f"no ring at {focus['named']}"
        assert focus["seen"], f"out of view: {focus['named']}"
    return focus


def tab_to(page: Any, selector: str, key: str = "Tab") -> int:
    """Tabs until the element has the focus; returns the number of stops."""
    page.wait_for_selector(selector)
    for count in range(1, MOST_STOPS):
        tab(page, key)
        if page.evaluate("s => document.activeElement.matches(s)", selector):
            return count
    raise AssertionError(f"no way to {selector} by {key}")


@pytest.fixture
def page(chromium: Any, trained_site: TrainedSite) -> Iterator[Any]:
    with visiting(chromium, trained_site.link) as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        yield page


def test_from_launch_to_a_shared_token(page: Any, trained_site: TrainedSite) -> None:
    page.goto(f"{trained_site.address}/")
    run_id = launch(page)
    watch(page, trained_site, run_id)
    rollout, position = worst_token(page, trained_site, run_id)
    branch = what_if(page, trained_site, rollout, position)
    share(page, branch, position)


def launch(page: Any) -> str:
    page.wait_for_selector("table.runs tbody tr")
    tab_to(page, ".opd a[href='new']")
    page.keyboard.press("Enter")
    tab_to(page, "#recipe")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#recipe")).not_to_have_value("demo")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#recipe")).to_have_value("demo")
    for field, value in SMALL.items():
        if field == "prompts-count":
            tab_to(page, "details.more > summary")
            page.keyboard.press("Enter")
        tab_to(page, f"#field-{field}")
        page.keyboard.type(value)  # what was there is selected
        expect(page.locator(f"#field-{field}")).to_have_value(value)
    tab_to(page, "#start-run:enabled")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/run\?id=run-"))
    return str(page.url.partition("id=")[2])


def watch(page: Any, trained_site: TrainedSite, run_id: str) -> None:
    page.locator(".run-progress").get_by_text(re.compile(r"step [12] of 2")).first.wait_for()
    page.locator(".status.finished").wait_for()
    run = read_run(trained_site.engine, run_id)
    assert (run["recipe"], run["steps"], run["step"]) == ("demo", 2, 2)
    assert page.locator("[role=progressbar]").get_attribute("aria-valuenow") == "2"


def worst_token(page: Any, trained_site: TrainedSite, run_id: str) -> tuple[str, int]:
    tab_to(page, "#open-worst")
    page.keyboard.press("Enter")
    page.wait_for_selector('#token-view[data-ready="true"]')
    page.keyboard.press("n")
    rollout = read_rollouts(trained_site.engine, run_id, sort="-kl_max", limit=1)["items"][0]
    position = int(np.argmax(trained_site.columns(rollout["id"])["reverse_kl"]))
    page.wait_for_selector(f'#token-detail[data-index="{position}"]')
    assert f"id={rollout['id']}" in page.url and f"pos={position}" in page.url
    return str(rollout["id"]), position


def what_if(page: Any, trained_site: TrainedSite, rollout: str, position: int) -> str:
    tab_to(page, "#tab-token")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".wi-choice:has(input:checked) :text('teacher’s choice')")
    tab_to(page, "#wi-go:enabled")
    page.keyboard.press("Enter")
    page.wait_for_selector(".wi-card[data-author=student]")
    tab_to(page, ".wi-card[data-author=student] a")
    page.keyboard.press("Enter")
    page.wait_for_function("before => !location.search.includes(`${before}&`)", arg=rollout)
    page.wait_for_selector('#token-view[data-ready="true"]')
    branch = str(page.locator("#token-view").get_attribute("data-rollout"))
    best = read_topk(trained_site.engine, rollout, position, 1)[0]["teacher"][0]
    assert trained_site.columns(branch)["completion_ids"][position] == best["id"]
    return branch


def share(page: Any, branch: str, position: int) -> None:
    """The link that the button copies shows a colleague the same token."""
    page.wait_for_selector(f'#token-detail[data-index="{position}"]')
    tab_to(page, ".rt-head button[title^='The address']")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.url
    other = page.context.new_page()
    other.goto(copied)
    other.wait_for_selector(f'#token-view[data-ready="true"][data-rollout="{branch}"]')
    pinned = other.locator(f'#token-detail[data-index="{position}"]')
    expect(pinned).to_contain_text("pinned")
    here = page.locator("#token-detail .dt-say").inner_text()
    expect(pinned.locator(".dt-say")).to_have_text(here)
    other.close()


def worst(site: Any) -> str:
    page = read_rollouts(site.engine, site.run_id, sort="-kl_max", limit=1)
    return str(page["items"][0]["id"])


def two_runs(site: Any) -> str:
    return ",".join(str(r["id"]) for r in read_runs(site.engine, limit=2)["items"])


PAGES: dict[str, tuple[Callable[[Any], str], str]] = {
    "runs": (lambda site: "/", ".table.runs tbody tr"),
    "new": (lambda site: "/new", ".form .form-row"),
    "run": (lambda site: f"/run?id={site.run_id}", '[data-insight="quadrants"][data-ready]'),
    "rollouts": (lambda site: f"/rollouts?run={site.run_id}&text=onerror", "tr[data-rollout]"),
    "tokens": (lambda site: f"/rollout?id={worst(site)}&pos=3", ".alt-row.sampled"),
    "compare": (lambda site: f"/compare?runs={two_runs(site)}", "[data-reach]"),
    "experiments": (lambda site: "/experiments", ".opd h2"),
    "playground": (lambda site: "/playground", ".opd h1"),
    "tour": (lambda site: "/tour", ".opd h1"),
}


@pytest.mark.parametrize("name", PAGES)
def test_tab_goes_around_a_page_and_is_seen_at_each_stop(
    name: str, open_page: Visit, site: Any
) -> None:
    path, ready = PAGES[name]
    page = open_page(path(site))
    if name == "run":
        page.locator(".insights").scroll_into_view_if_needed()
    page.wait_for_selector(ready)
    page.wait_for_timeout(300)
    count = 0
    while (stop := tab(page)) is not None and (count == 0 or not stop["first"]):
        count += 1
        assert count < MOST_STOPS, "it does not end"
    assert count > LINKS_OF_THE_BAR


def test_the_text_is_one_stop_and_gives_its_keys_back(open_page: Visit, site: Any) -> None:
    rollout = worst(site)
    page = open_page(f"/rollout?id={rollout}")
    assert tab_to(page, "#token-view .tv-scroll") <= STOPS_TO_THE_TEXT
    inside = "e => [...e.querySelectorAll('*')].filter((x) => x.tabIndex >= 0).length"
    assert page.locator("#token-view").evaluate(inside) == 1
    for key, position in (("Home", 0), ("ArrowRight", 1), ("ArrowLeft", 0)):
        page.keyboard.press(key)
        page.wait_for_selector(f'#token-detail[data-index="{position}"]')
    active = page.locator("#token-view .tv-scroll").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("data-index") == "0"
    last = len(read_tokens(site.engine, rollout).columns["completion_ids"]) - 1
    page.keyboard.press("End")
    page.wait_for_selector(f'#token-detail[data-index="{last}"]')
    tab_to(page, "#tab-token")
    for key in ("Tab", "Shift+Tab"):
        tab(page, key)
    assert page.evaluate("document.activeElement.id") == "tab-token"
    assert tab_to(page, "#token-view .tv-scroll", "Shift+Tab") <= 2
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "token-search"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_skip_link_and_escape_lead_to_the_text(open_page: Visit, site: Any) -> None:
    page = open_page(f"/rollout?id={worst(site)}&pos=0&tab=loss-lab")
    at_text = "document.activeElement.matches('#token-view .tv-scroll')"
    assert tab_to(page, ".skip") <= LINKS_OF_THE_BAR + 2
    page.keyboard.press("Enter")
    assert page.evaluate(at_text)
    for field in ("#lab-objective", "#token-search", "#scale-gamma"):
        page.locator(field).focus()
        page.keyboard.press("Escape")
        assert page.evaluate(at_text), field
        page.wait_for_selector(".tv-tok.pinned")  # it left the field, and no more
    page.keyboard.press("ArrowRight")
    expect(page.locator(".tv-tok.pinned")).to_have_attribute("data-index", "1")


def test_charts_are_no_tab_stops(open_page: Visit, site: Any) -> None:
    page = open_page(f"/run?id={site.run_id}")
    page.wait_for_selector(".modebar-btn", state="attached")
    parts = "[...document.querySelectorAll('.chart .js-plotly-plot *')]"
    tabbable = f"() => {parts}.filter((e) => e.tabIndex >= 0"
    assert page.evaluate(f"{tabbable} && e.checkVisibility()).length") == 0
    page.evaluate(
        """Plotly.relayout(
            document.querySelector(".plot"), {"xaxis.range[0]": 2, "xaxis.range[1]": 3}
        )"""
    )
    page.get_by_role("button", name="Reset zoom").press("Enter")
    expect(page.get_by_role("button", name="Reset zoom")).to_have_count(0)
    assert page.evaluate("document.querySelector('.plot').layout.xaxis.range[1]") > 3


def test_the_focus_stays_in_the_head_of_a_run_while_it_goes_on(open_page: Visit, site: Any) -> None:
    page = open_page(f"/run?id={site.run_id}")
    page.wait_for_selector("#open-worst")
    held = page.evaluate(
        """async () => {
            const { RunHead } = await import("./static/run/head.js");
            const run = { id: "r", name: "n", status: "running", tags: ["a"], steps: 9, step: 1 };
            const charts = { columns: {}, secondsPerStep: () => 1, tokensPerSecond: () => "" };
            const head = new RunHead({});
            document.querySelector(".opd").prepend(head.element);
            head.offer({ id: "one" }, 1);
            head.show(run, charts);
            const parts = [...head.line.querySelectorAll("a.btn, summary")];
            return parts.filter((part) => part.checkVisibility()).map((part, i) => {
                part.focus();
                head.offer({ id: `next ${i}` }, 2 + i);
                head.show({ ...run, step: 2 + i, tags: ["b"] }, charts);
                return document.activeElement.textContent;
            });
        }"""
    )
    parts = ["Open the worst rollout", "Rollouts 3", "Clone with changes"]
    parts += ["Export", "Stop", "⋯", "?"]
    assert held == parts
