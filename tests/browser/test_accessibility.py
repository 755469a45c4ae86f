"""No page has a serious finding of axe-core, light or dark, nor cuts anything at 150%; links fit
into a narrow window."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from sqlalchemy import select

from storage import schema
from storage.engine import read
from storage.queue.experiments import create_experiment
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_runs
from tests.conftest import TOKEN, Site
from tests.support.stored_experiments import definition

pytestmark = pytest.mark.browser
SERIOUS = ("serious", "critical")
OPTIONS = {"resultTypes": ["violations"]}
ENLARGED = {"width": 853, "height": 533}  # what is left of 1280 by 800 at 150%
# What lies within something that scrolls sideways can be brought into sight; a link within a
# sentence is as high as its line; what is shown only on focus waits outside; what is 1 px wide is
# pressed by way of something else.
FAULTS = """(touch) => {
    const name = (e) =>
        `${e.tagName} ${e.getAttribute("aria-label") ?? e.textContent.trim().slice(0, 30)}`;
    const scrolls = (e) => {
        for (let p = e.parentElement; p !== document.body; p = p.parentElement) {
            if (/auto|scroll/.test(getComputedStyle(p).overflowX)) return true;
        }
        return false;
    };
    const width = document.documentElement.clientWidth;
    const faults = [];
    const wide = document.documentElement.scrollWidth - width;
    if (wide > 0) faults.push(`the page is ${wide} px too wide`);
    const pressed = "a[href], button, input, select, textarea, summary, [role=tab]";
    for (const e of document.querySelectorAll(pressed)) {
        const box = e.getBoundingClientRect();
        const shown = e.checkVisibility({ opacityProperty: true, visibilityProperty: true });
        if (!shown || box.width <= 1 || e.matches(".skip")) continue;
        if ((box.left < -0.5 || box.right > width + 0.5) && !scrolls(e)) {
            faults.push(`${name(e)} is cut: ${box.left} to ${box.right}`);
        }
        const target = e.closest("label")?.getBoundingClientRect() ?? box;
        const small = Math.min(target.width, target.height) < touch - 0.5;
        if (touch && small && getComputedStyle(e).display !== "inline") {
            faults.push(`${name(e)} is small: ${target.width} by ${target.height}`);
        }
    }
    return faults;
}"""
# Nothing changes or moves any more; what turns round for ever does not count
AT_REST = """() => new Promise((done) => {
    const start = performance.now();
    let last = start;
    const changed = () => { last = performance.now(); };
    const watch = new MutationObserver(changed);
    const all = { subtree: true, childList: true, attributes: true, characterData: true };
    watch.observe(document, all);
    const ends = (moving) => Number.isFinite(moving.effect.getComputedTiming().endTime);
    const look = () => {
        if (document.getAnimations().some((a) => a.playState === "running" && ends(a))) changed();
        const now = performance.now();
        if (now - last < 300 && now - start < 5000) return setTimeout(look, 20);
        watch.disconnect();
        done();
    };
    look();
})"""


@pytest.fixture(scope="module")
def wide(chromium: Any, site: Site) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light")
    context.request.get(site.link(f"/?token={TOKEN}"))
    yield context
    context.close()


def worst(site: Site) -> str:
    rollouts = read_rollouts(site.engine, site.run_id, sort="-kl_max", limit=1)
    return str(rollouts["items"][0]["id"])


PAGES: dict[str, tuple[Callable[[Site], str], str]] = {
    "runs": (lambda site: "/", ".table.runs tbody tr"),
    "new": (lambda site: "/new", ".form .form-row"),
    "run": (lambda site: f"/run?id={site.run_id}", ".run-facts dd"),
    "rollouts": (lambda site: f"/rollouts?run={site.run_id}", ".table.rollouts tbody tr"),
    "token": (lambda site: f"/rollout?id={worst(site)}&pos=3", ".alt-row.sampled"),
    "what if": (lambda site: f"/rollout?id={worst(site)}&pos=3&tab=what-if", ".tv-tok.pinned"),
    "over time": (lambda site: f"/rollout?id={worst(site)}&tab=over-time", ".tv-tok"),
    "loss lab": (lambda site: f"/rollout?id={worst(site)}&pos=3&tab=loss-lab", ".tv-tok.pinned"),
    "compare": (lambda site: f"/compare?runs={','.join(two_runs(site))}", ".opd h1"),
    "experiments": (lambda site: "/experiments", ".opd h2"),
    "playground": (lambda site: "/playground", ".opd h1"),
    "tour": (lambda site: "/tour", ".opd h1"),
    "experiment": (lambda site: f"/experiment?id={experiment(site)}", ".opd h1"),
    "endpoints": (lambda site: "/endpoints", ".show-api"),
    "guide": (lambda site: "/guide", ".guide-text h1"),
    "unknown rollout": (lambda site: "/rollout?id=roll-none", ".face.bad"),
}


def two_runs(site: Site) -> list[str]:
    return [str(r["id"]) for r in read_runs(site.engine, limit=2)["items"]]


def experiment(site: Site) -> str:
    with read(site.engine) as connection:
        name = connection.execute(select(schema.experiment.c.id)).scalars().first()
    return name or create_experiment(site.engine, definition(), quick=True)


def opened(name: str, context: Any, site: Site) -> Any:
    """That page of PAGES, once it shows what it is for."""
    path, ready = PAGES[name]
    page = context.new_page()
    page.goto(site.link(path(site)))
    page.wait_for_selector(ready)
    return page


@pytest.mark.parametrize("name", PAGES)
def test_no_page_has_a_serious_finding(name: str, wide: Any, site: Site) -> None:
    """In the hand, `tests/browser/test_small_screens.py` looks at each."""
    page = opened(name, wide, site)
    light = serious(page)
    page.emulate_media(color_scheme="dark")
    dark = serious(page)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.set_viewport_size(ENLARGED)
    at_rest(page)
    cut = page.evaluate(FAULTS, 0)
    page.close()
    assert (light, dark, cut) == ([], [], [])
    assert max(int(n) for n in re.findall(r"\d+", background)[:3]) < 64, "it was dark"


def at_rest(page: Any) -> None:
    page.evaluate(AT_REST)


def serious(page: Any, within: str | None = None) -> list[str]:
    """What axe-core finds, once nothing moves any more, in the whole page or within one element."""
    at_rest(page)
    violations = Axe().run(page, context=within, options=OPTIONS).response["violations"]
    return [said(v) for v in violations if v["impact"] in SERIOUS]


def said(violation: dict[str, Any]) -> str:
    places = [f"{n['target']} {n['html'][:160]}" for n in violation["nodes"][:4]]
    return f"{violation['id']}: {violation['help']}; {len(violation['nodes'])} of {places}"


def test_the_way_to_the_endpoints_is_seen_without_scrolling(
    open_page: Callable[[str], Any],
) -> None:
    page = open_page("/endpoints")
    link, text = page.get_by_role("button", name="Use via API"), page.locator(".opd-endpoints p")
    expect(link).to_be_in_viewport()
    expect(text).to_be_in_viewport()
    page.wait_for_function(
        """() => {
            const [text, link] = [".opd-endpoints p", ".show-api"].map((name) =>
                document.querySelector(name).getBoundingClientRect());
            return text.bottom <= link.top && link.bottom < 300;
        }"""
    )


BAR = """() => [...document.querySelectorAll(".nav-holder nav a, .theme-switch")].map((link) => {
    const box = link.getBoundingClientRect();
    return [box.left, box.top, box.right, box.bottom];
})"""


@pytest.mark.parametrize("width", [390, 640])
def test_the_links_of_the_bar_fit_beside_the_theme(
    open_page: Callable[[str], Any], width: int
) -> None:
    page = open_page("/playground")
    page.set_viewport_size({"width": width, "height": 800})
    page.wait_for_selector(".theme-switch")
    *links, theme = page.evaluate(BAR)
    assert len(links) == 6 and len({top for _, top, _, _ in links}) == 1, "one row"
    body = page.locator(".opd").first.bounding_box()
    for left, top, right, bottom in links:
        assert left >= 0 and right <= width and bottom <= body["y"]
        assert right <= theme[0] or top >= theme[3], "beside the switch or below it"
