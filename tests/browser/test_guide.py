"""The guide: documents as pages of the dashboard, reached by the “?” of what they explain."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

from bench.documents import GUIDE
from tests.browser.test_accessibility import worst

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]


def test_the_question_mark_of_a_rollout_leads_to_how_it_is_read(
    open_page: Visit, site: Any
) -> None:
    page = open_page(f"/rollout?id={worst(site)}")
    page.keyboard.press("?")
    page.get_by_role("link", name="How to read this page").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Inspecting a run")
    assert page.title() == "Inspecting a run · OPD Studio"
    metrics = page.locator(".guide-text table").first
    assert "exact over the whole vocabulary" in metrics.inner_text()
    page.get_by_role("link", name="Rollouts and worst tokens").click()
    expect(page.locator("#rollouts-and-worst-tokens")).to_be_in_viewport()


def test_the_question_mark_of_a_run_leads_to_its_section(open_page: Visit, site: Any) -> None:
    page = open_page(f"/run?id={site.run_id}")
    page.locator("#run-guide").click()
    expect(page.locator("#the-runs-page")).to_be_focused()
    expect(page.locator("#the-runs-page")).to_be_in_viewport()
    page.locator(".guide-text").get_by_role("link", name="metrics.md").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Metrics")
    assert page.locator(".guide-text").inner_text().count("nats per token") > 3


def test_every_document_is_whole_and_its_links_lead_somewhere(open_page: Visit, site: Any) -> None:
    for file in GUIDE:
        page = open_page(f"/guide?doc={file.removesuffix('.md')}")
        page.wait_for_selector(".guide-text h1")
        text = page.locator(".guide-text").inner_text()
        assert "**" not in text and "](" not in text and "<!--" not in text
        for href in page.eval_on_selector_all(".guide a", "all => all.map(a => a.href)"):
            path, _, anchor = href.partition("#")
            assert re.search(r"/guide\?doc=[a-z-]+$", path), href
            if anchor and path == page.url.partition("#")[0]:
                assert page.locator(f"#{anchor}").count() == 1, href


@pytest.mark.parametrize("name", ["../../etc/passwd", "<img src=x>", "settings", ""])
def test_other_names_are_refused(open_page: Visit, name: str) -> None:
    page = open_page(f"/guide?doc={name}")
    expect(page.locator(".face.bad")).to_contain_text("There is no such document")
    expect(page.locator(".face.bad")).to_contain_text("inspecting, metrics, diagnosis, loss-lab")
