"""The run's aggregates and its worst tokens in Chromium, against the REST answers."""

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from storage.insights.hot_tokens import read_hot_tokens
from storage.insights.insights import read_insight
from storage.insights.selection import Where
from storage.read.rollouts import read_rollout

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
SLOW = 120_000  # ms
NAMES = ("positions", "tokens", "quadrants", "advantages", "correctness", "overlap", "stops")


@pytest.fixture
def insights(open_page: Visit, site: Any) -> Any:
    """The run page with all its aggregates drawn."""
    page = open_page(f"/run?id={site.run_id}")
    page.locator(".insights").wait_for(timeout=SLOW)
    page.locator(".insights").scroll_into_view_if_needed()
    for name in NAMES:
        panel = page.locator(f'[data-insight="{name}"][data-ready="true"]').first
        panel.wait_for(state="attached", timeout=SLOW)
    return page


def insight(site: Any, name: str) -> dict[str, Any]:
    return read_insight(site.engine, site.run_id, name, Where("train"))


def total(page: Any) -> int:
    """The number of tokens that the list of worst tokens names."""
    count = page.locator(".worst [data-total]").first
    count.wait_for(timeout=SLOW)
    return int(count.get_attribute("data-total"))


def query_of(page: Any) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def test_a_cell_leads_to_exactly_its_tokens(insights: Any, site: Any) -> None:
    positions = insight(site, "positions")
    grid = insights.locator('[data-insight="positions"] .cell-grid')
    assert grid.locator("a").count() == sum(n > 0 for line in positions["tokens"] for n in line)
    assert grid.locator('[tabindex="0"]').count() == 1
    grid.locator('[tabindex="0"]').focus()
    insights.keyboard.press("ArrowDown")
    insights.keyboard.press("ArrowRight")
    label = insights.evaluate("document.activeElement.getAttribute('aria-label')")
    (first, last), (low, high) = positions["steps"][1], positions["positions"][1]
    assert f"over {positions['tokens'][1][1]:,} tokens" in label
    insights.keyboard.press("Enter")
    insights.wait_for_url("**/rollouts?*")
    assert total(insights) == positions["tokens"][1][1]
    query = query_of(insights)
    assert (query["min_step"], query["max_step"]) == (str(first), str(last))
    assert (query["min_position"], query["max_position"]) == (str(low), str(high))
    for row in insights.locator(".worst-row").all():
        token = parse_qs(urlsplit(row.get_attribute("href")).query)
        assert low <= int(token["pos"][0]) <= high
        rollout = read_rollout(site.engine, token["id"][0])
        assert first <= rollout["step"] <= last and rollout["kind"] == "train"


def test_shares_are_those_of_the_route_and_lead_on(insights: Any, site: Any) -> None:
    shares = insight(site, "tokens")
    for item in shares["classes"]:
        link = insights.locator(f'[data-class="{item["class"]}"]')
        assert link.count() == (item["tokens"] > 0)
        if item["tokens"]:
            row = link.locator("xpath=ancestor::tr").inner_text()
            assert f"{item['tokens']:,}" in row and f"{100 * item['kl_share']:.1f}%" in row
    worst = shares["strings"][0]
    link = insights.locator(f'[data-part="strings"] [data-token="{worst["token_id"]}"]')
    assert worst["text"].strip() in link.inner_text()
    link.click()
    insights.wait_for_url("**/rollouts?*")
    assert total(insights) == worst["tokens"]
    tokens = insights.locator(".worst-row")
    assert {row.get_attribute("data-token") for row in tokens.all()} == {str(worst["token_id"])}


def test_a_brushed_region_lists_its_tokens(insights: Any, site: Any) -> None:
    quadrants = insight(site, "quadrants")
    panel = insights.locator('[data-insight="quadrants"]')
    for quadrant in quadrants["quadrants"]:
        key = f"{str(quadrant['unsure']).lower()}-{str(quadrant['disagree']).lower()}"
        row = panel.locator(f'[data-quadrant="{key}"]').locator("xpath=ancestor::tr")
        assert f"{quadrant['tokens']:,}" in row.inner_text()
    cells = panel.locator('.cell-grid [role="button"]')
    first = panel.locator('.cg-cell[data-r="23"][data-c="0"]')
    last = panel.locator('.cg-cell[data-r="20"][data-c="5"]')
    assert cells.count() > 20
    first.scroll_into_view_if_needed()
    start, end = first.bounding_box(), last.bounding_box()
    insights.mouse.move(start["x"] + 2, start["y"] + 2)
    insights.mouse.down()
    insights.mouse.move(end["x"] + 4, end["y"] + 4, steps=8)
    insights.mouse.up()
    count = sum(quadrants["grid"][i][j] for i in range(6) for j in range(4))
    expect(panel.locator(".brush-list [data-total]")).to_have_attribute(
        "data-total", str(count), timeout=SLOW
    )
    assert panel.locator(".brush-list .worst-row").count() > 0
    panel.get_by_label("KL ≥").fill("2")
    panel.get_by_label("KL <").fill("")
    panel.get_by_label("Entropy <").fill("")
    expected = read_hot_tokens(
        site.engine,
        site.run_id,
        kind="train",
        min_entropy=quadrants["entropy_edges"][0],
        min_heat=2.0,
    )
    expect(panel.locator(".brush-list [data-total]")).to_have_attribute(
        "data-total", str(expected["total"]), timeout=SLOW
    )
    panel.get_by_role("link", name="Open the list").click()
    insights.wait_for_url("**/rollouts?*")
    assert total(insights) == expected["total"]


def test_bars_and_rollouts_lead_on(insights: Any, site: Any) -> None:
    advantages = insight(site, "advantages")
    bars = insights.locator('[data-insight="advantages"] .bars a')
    assert bars.count() == sum(count > 0 for count in advantages["counts"])
    grades = insight(site, "correctness")
    listed = insights.locator('[data-insight="correctness"] [data-rollout]')
    assert [link.get_attribute("data-rollout") for link in listed.all()] == [
        item["id"] for name in ("penalised", "endorsed") for item in grades[name][:5]
    ]
    bars.first.focus()
    insights.keyboard.press("ArrowRight")
    focused = insights.evaluate("document.activeElement.dataset.bin")
    insights.keyboard.press("Enter")
    insights.wait_for_url("**/rollouts?*")
    assert total(insights) == advantages["counts"][int(focused)]


def test_steps_and_kind_narrow_every_figure(insights: Any, site: Any) -> None:
    insights.get_by_label("Step from").fill("3")
    insights.get_by_label("to step").fill("4")
    few = read_insight(site.engine, site.run_id, "tokens", Where("train", 3, 4))
    expect(insights.locator(".insight-summary")).to_contain_text(
        f"{few['counted']:,} tokens", timeout=SLOW
    )
    assert query_of(insights)["min_step"] == "3"
    panel = insights.locator('[data-insight="overlap"]')
    panel.locator("summary").click()
    expect(panel.locator(".as-table tbody tr")).to_have_count(2)
    panel.locator(".as-table a").first.click()
    insights.wait_for_url("**/rollouts?*step=3*")


def test_filters_of_the_worst_tokens_live_in_the_address(open_page: Visit, site: Any) -> None:
    page = open_page(f"/rollouts?run={site.run_id}&view=worst")
    page.locator(".worst-row").first.wait_for(timeout=SLOW)
    assert "worst tokens of each rollout" in page.locator(".worst-source").inner_text()
    page.get_by_label("Token class").select_option("number")
    page.get_by_label("Position ≥").fill("10")
    page.get_by_label("Token text").fill("3")
    page.get_by_label("Right or wrong").select_option("false")
    expected = read_hot_tokens(
        site.engine, site.run_id, token_class="number", min_position=10, text="3", correct=False
    )
    count = page.locator(".worst [data-total]").first
    expect(count).to_have_attribute("data-total", str(expected["total"]), timeout=SLOW)
    assert "From all" in page.locator(".worst-source").inner_text()
    page.reload()
    expect(count).to_have_attribute("data-total", str(expected["total"]), timeout=SLOW)
    hrefs = [row.get_attribute("href") for row in page.locator(".worst-row").all()]
    assert hrefs == [
        f"rollout?id={item['rollout_id']}&pos={item['position']}" for item in expected["items"][:25]
    ]


def test_n_and_p_go_through_the_worst_tokens_of_the_run(open_page: Visit, site: Any) -> None:
    items = read_hot_tokens(site.engine, site.run_id, limit=27)["items"]
    page = open_page(f"/rollouts?run={site.run_id}&view=worst")
    page.locator(".worst-row").first.wait_for(timeout=SLOW)
    here = "document.activeElement.getAttribute('href') ?? ''"
    for key, index in (("n", 0), ("n", 1), ("p", 0)):
        page.keyboard.press(key)
        assert page.evaluate(here).endswith(
            f"id={items[index]['rollout_id']}&pos={items[index]['position']}"
        )
    page.locator(".worst-row").last.focus()
    page.keyboard.press("n")
    expected = f"id={items[25]['rollout_id']}&pos={items[25]['position']}"
    page.wait_for_function(f"({here}).endsWith({expected!r})", timeout=SLOW)
    assert query_of(page)["token_offset"] == "25"
    page.keyboard.press("Enter")
    page.wait_for_selector(f'#token-detail[data-index="{items[25]["position"]}"]', timeout=SLOW)
    assert query_of(page)["id"] == items[25]["rollout_id"]


def test_a_filter_that_nothing_passes_says_so(open_page: Visit, site: Any) -> None:
    bare = open_page(f"/rollouts?run={site.run_id}&view=worst&token_text=nowhere-to-be-found")
    expect(bare.get_by_text("No tokens match")).to_be_visible(timeout=SLOW)
