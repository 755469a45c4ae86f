"""The loss lab's panel in a real Chromium, against its routes."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from opd.loss.counterfactual import LabSettings
from storage.insights.lab import lab_rollout, lab_run, lab_token
from storage.read.rollouts import read_rollouts

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
GAMMA, LEVELS = 0.6, 64  # of palette.js
READY = '.loss-lab[data-ready="true"]'
METRIC = "document.querySelector('#metric').selectedOptions[0].textContent"


def rollout_of(site: Any) -> str:
    page = read_rollouts(site.engine, site.run_id, sort="-kl_max", limit=1)
    return str(page["items"][0]["id"])


def shown(value: float) -> str:
    return f"{value:.4f}".replace("-", "−")


def opened(open_page: Visit, site: Any, pos: str = "") -> tuple[Any, str]:
    rollout_id = rollout_of(site)
    page = open_page(f"/rollout?id={rollout_id}&tab=loss-lab{pos}")
    page.wait_for_selector(READY)
    return page, rollout_id


def lab(site: Any, rollout_id: str, **settings: Any) -> dict[str, Any]:
    return lab_rollout(site.engine, rollout_id, LabSettings(**settings))


def loss_text(page: Any, row: str) -> str:
    return str(page.locator(f'tr[data-loss="{row}"] td.num').inner_text())


def wait_for_loss(page: Any, text: str) -> None:
    page.wait_for_function(
        """(text) => document.querySelector('tr[data-loss="in the lab"] td.num')
            ?.textContent === text""",
        arg=text,
    )


def test_the_panel_opens_on_the_loss_as_trained(open_page: Visit, site: Any) -> None:
    page, rollout_id = opened(open_page, site)
    loss = lab(site, rollout_id)["loss"]["low"]
    assert loss_text(page, "as trained") == loss_text(page, "in the lab") == shown(loss)
    assert "exact" in page.locator(".ll-result caption").inner_text()
    assert page.evaluate(METRIC) == "Loss lab: Reverse KL"


def test_settings_change_sums_and_tint_at_once(open_page: Visit, site: Any) -> None:
    page, rollout_id = opened(open_page, site)
    page.select_option("#lab-objective", "policy_gradient")
    page.fill("#lab-clip", "0.4")
    page.fill("#lab-prefix", "12")
    page.select_option("#lab-reduction", "sum")
    losses = lab(
        site, rollout_id, objective="policy_gradient", clip=0.4, prefix=12, reduction="sum"
    )
    wait_for_loss(page, shown(losses["loss"]["low"]))
    figures = page.locator("[data-figure]").all_inner_texts()
    n, touched = losses["n"], losses["clipped_kept"]
    assert figures[:2] == [f"12 of {n:,}", str(touched)]
    assert figures[2] == f"{losses['kl_share'] * 100:.1f}%"
    masked = page.locator(".tv-tok.masked").count()
    assert masked == page.locator("[data-index], [data-part]").count() - 12
    top = max(abs(v) for v in losses["low"][:12])
    for index, value in enumerate(losses["low"][:12]):
        name = page.locator(f'[data-index="{index}"]').first.get_attribute("class")
        level = round((abs(value) / top) ** GAMMA * LEVELS)
        tint = ("w" if value > 0 else "c") + str(level) if level else ""
        assert (re.findall(r"\b[qwc]\d+\b", name) or [""])[0] == tint, (index, value)


def test_a_bounded_objective_says_so(open_page: Visit, site: Any) -> None:
    page, rollout_id = opened(open_page, site)
    page.select_option("#lab-objective", "forward_kl")
    losses = lab(site, rollout_id, objective="forward_kl")
    wait_for_loss(page, f"≥ {shown(losses['loss']['low'])}")
    assert "at least (bounded by the stored top-8)" in page.locator(".legend").inner_text()


def test_the_pinned_token_under_every_objective(open_page: Visit, site: Any) -> None:
    page, rollout_id = opened(open_page, site, "&pos=5")
    page.wait_for_selector('.ll-token[data-index="5"]')
    items = lab_token(site.engine, rollout_id, 5, LabSettings())["items"]
    for item in items:
        text = page.locator(f'tr[data-objective="{item["objective"]}"]').inner_text()
        if item["reason"]:
            assert "not in this record" in text
        else:
            assert shown(item["low"]) in text, item
        assert ("exact" in text) == bool(item["exact"])
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('.ll-token[data-index="6"]')


def test_leaving_the_tab_brings_the_metric_back(open_page: Visit, site: Any) -> None:
    page, _ = opened(open_page, site)
    page.fill("#lab-prefix", "3")
    page.wait_for_function("document.querySelectorAll('.tv-tok.masked').length > 0")
    page.locator("#tab-loss-lab").focus()
    page.keyboard.press("ArrowRight")  # round to the first tab
    page.wait_for_function(f"{METRIC} === 'Reverse KL'")
    assert page.locator(".tv-tok.masked").count() == 0
    assert "loss lab" not in page.locator(".legend").inner_text()
    page.click("#tab-loss-lab")
    page.wait_for_function(f"{METRIC} === 'Loss lab: Reverse KL'")
    assert page.locator("#lab-prefix").input_value() == "3"


def test_the_whole_run_by_keyboard(open_page: Visit, site: Any) -> None:
    page, _ = opened(open_page, site)
    page.select_option("#lab-objective", "jsd")
    page.locator(".ll-run > summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".ll-run .main-svg")
    steps = lab_run(site.engine, site.run_id, LabSettings(objective="jsd"))
    drawn = page.evaluate("document.querySelector('.ll-run .plot').data.map((t) => [...t.y])")
    for line, key in ((1, "low"), (2, "high")):
        assert drawn[line] == pytest.approx([item["loss"][key] for item in steps["items"]])
    assert drawn[0] == pytest.approx(
        [item["logged"] or item["trained"]["low"] for item in steps["items"]]
    )


def test_a_wrong_number_is_marked_and_not_asked(open_page: Visit, site: Any) -> None:
    page, rollout_id = opened(open_page, site)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    for name, value in (("clip", "-1"), ("start", "9"), ("prefix", "4")):
        page.fill(f"#lab-{name}", value)
    for name, wrong in (("clip", "true"), ("start", "false"), ("prefix", "true")):
        assert page.locator(f"#lab-{name}").get_attribute("aria-invalid") == wrong
    losses = lab(site, rollout_id, start=9)
    wait_for_loss(page, shown(losses["loss"]["low"]))
    assert not any("clip=" in url or "prefix=" in url for url in requests)
