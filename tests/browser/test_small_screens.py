"""Every page in the hand (390 px, touch; also by axe-core) and at 150%: nothing is cut, all can be
pressed."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.test_accessibility import PAGES, opened, serious
from tests.conftest import TOKEN, Site

pytestmark = pytest.mark.browser
SIZES = {
    "390": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
    "150%": {"viewport": {"width": 853, "height": 533}, "device_scale_factor": 1.5},
}
TOUCH = 24  # px
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


@pytest.fixture(scope="module", params=SIZES)
def small(request: Any, chromium: Any, site: Site) -> Iterator[Any]:
    context = chromium.new_context(**SIZES[request.param])
    context.request.get(site.link(f"/?token={TOKEN}"))
    context.touch = TOUCH if request.param == "390" else 0
    yield context
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_and_all_can_be_pressed(name: str, small: Any, site: Site) -> None:
    page = opened(name, small, site)
    found = serious(page) if small.touch else []
    page.wait_for_timeout(300)
    faults = page.evaluate(FAULTS, small.touch)
    page.close()
    assert (faults, found) == ([], [])


def test_the_text_lies_above_its_panel(small: Any, site: Site) -> None:
    page = opened("token", small, site)
    text = page.locator("#token-view").bounding_box()
    panel = page.locator("#token-detail").bounding_box()
    page.close()
    assert text["y"] + text["height"] <= panel["y"] + 1


def test_what_is_faulty_is_found(small: Any) -> None:
    page = small.new_page()
    page.set_content(
        '<meta name="viewport" content="width=device-width"><button style="position:absolute;'
        'left:-9px;width:40px;height:40px">cut</button><div style="width:2000px">wide</div>'
        '<button style="width:9px;height:9px;padding:0">small</button>'
    )
    found = " ".join(page.evaluate(FAULTS, TOUCH))
    page.close()
    assert "too wide" in found and "cut is cut" in found and "small is small" in found
