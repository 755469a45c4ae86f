"""Every page in the hand (390 px, touch): nothing is cut, all can be pressed, and axe-core finds
nothing serious."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.test_accessibility import (
    ENLARGED,
    FAULTS,
    PAGES,
    at_rest,
    opened,
    serious,
)
from tests.conftest import TOKEN, Site

pytestmark = pytest.mark.browser
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
TOUCH = 24  # px


@pytest.fixture(scope="module")
def small(chromium: Any, site: Site) -> Iterator[Any]:
    context = chromium.new_context(**PHONE)
    context.request.get(site.link(f"/?token={TOKEN}"))
    yield context
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_cut_and_all_can_be_pressed(name: str, small: Any, site: Site) -> None:
    page = opened(name, small, site)
    violations = serious(page)
    faults = page.evaluate(FAULTS, TOUCH)
    page.close()
    assert (faults, violations) == ([], [])


def test_the_text_lies_above_its_panel(small: Any, site: Site) -> None:
    page = opened("token", small, site)
    for size in (PHONE["viewport"], ENLARGED):
        page.set_viewport_size(size)
        at_rest(page)
        text = page.locator("#token-view").bounding_box()
        panel = page.locator("#token-detail").bounding_box()
        assert text["y"] + text["height"] <= panel["y"] + 1
    page.close()


def test_what_is_faulty_is_found(small: Any) -> None:
    page = small.new_page()
    page.set_content(
        '<meta name="viewport" content="width=device-width"><button style="position:absolute;'
        'left:-9px;width:40px;height:40px">cut</button><div style="width:2000px">wide</div>'
        '<button style="width:9px;height:9px;padding:0">small</button>'
    )
    faults = " ".join(page.evaluate(FAULTS, TOUCH))
    page.close()
    assert "too wide" in faults and "cut is cut" in faults and "small is small" in faults
