"""The ten questions of docs/guide/inspecting.md, each walked with the clicks that it names."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from playwright.sync_api import expect

from storage.read.rollouts import read_rollout
from storage.read.runs import read_steps
from storage.read.tokens import read_tokens, read_topk
from tests.browser.test_numbers import kind_of
from tests.support.documented_walks import MOST_CLICKS, Walk, documented
from tests.support.trained_site import CLIMBS, FLAT, TrainedSite, visiting

pytestmark = pytest.mark.browser
LEVELS = 64  # of palette.js
DARKEST = r"""all => Math.max(...all.map(
    (e) => Number((e.className.match(/\b[wc](\d+)\b/) ?? [0, 0])[1])))"""
READY = '#token-view[data-ready="true"]'


@pytest.fixture
def page(chromium: Any, trained_site: TrainedSite) -> Iterator[Any]:
    with visiting(chromium, trained_site.link) as page:
        yield page


Walking = Callable[[int, str, str], Walk]


@pytest.fixture
def walking(page: Any, trained_site: TrainedSite) -> Walking:
    """walking(number, title, path): the question's first page is open; done() must be called."""

    def walk(number: int, title: str, path: str) -> Walk:
        page.goto(f"{trained_site.address}/{path}")
        if path.startswith("rollout?"):
            page.wait_for_selector(READY)
        return Walk(page, number, title)

    return walk


def training(trained_site: TrainedSite) -> list[dict[str, Any]]:
    return trained_site.rollouts(kind="train")


def counted(trained_site: TrainedSite, items: list[dict[str, Any]], name: str) -> np.ndarray:
    """A column over all tokens of these rollouts that count in the loss."""
    records = [trained_site.columns(item["id"]) for item in items]
    return np.concatenate([c[name][c["mask"] > 0] for c in records]).astype(np.float64)


def worst_of(trained_site: TrainedSite, rollout_id: str) -> int:
    return int(np.argmax(trained_site.columns(rollout_id)["reverse_kl"]))


def pinned(page: Any, rollout_id: str, position: int) -> str:
    """What the panel says of the token, which must be the pinned one of that rollout."""
    page.wait_for_selector(f'{READY}[data-rollout="{rollout_id}"]')
    page.wait_for_selector(f'#token-detail[data-index="{position}"] .alt-row.sampled')
    return str(page.locator("#token-detail").inner_text())


def number_of(cell: Any) -> float:
    return float(cell.inner_text().replace("−", "-").replace(",", "").rstrip("%"))


def worst_row(page: Any) -> Any:
    page.wait_for_selector(".worst [data-total]")
    return page.locator(".worst-row").first


def opened(page: Any) -> tuple[str, int]:
    """The rollout and the token of the address."""
    page.wait_for_url(re.compile(r"/rollout\?.*pos="))
    query = parse_qs(urlsplit(page.url).query)
    return query["id"][0], int(query["pos"][0])


def total(page: Any) -> int:
    return int(page.locator(".worst [data-total]").first.get_attribute("data-total"))


def test_ten_questions_of_at_most_four_clicks_all_walked() -> None:
    walks = documented()
    assert sorted(walks) == list(range(1, 11))
    assert all(1 <= len(clicks) <= MOST_CLICKS for _, clicks in walks.values())
    source = Path(__file__).read_text(encoding="utf-8")
    assert sorted(int(n) for n in re.findall(r"walking\(\n? *(\d+),", source)) == sorted(walks)


def test_1_the_token_that_made_a_rollout_go_wrong(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    items = trained_site.rollouts(sort="-kl_sum", correct=False)
    item = next(i for i in items if i["kind"] == "train")
    walk = walking(1, "Which token made rollout 17 go wrong?", f"run?id={trained_site.run_id}")
    walk.click(page.get_by_role("link", name=re.compile("^Rollouts")))
    line = page.locator(f'tr[data-rollout="{item["id"]}"]')
    assert f"{item['group']}.{item['sample']}" in line.locator("td").nth(2).inner_text()
    walk.click(line.locator("a"))
    page.wait_for_selector(READY)
    walk.key("n")
    walk.done()
    position = worst_of(trained_site, item["id"])
    text = pinned(page, item["id"], position)
    assert f"{trained_site.columns(item['id'])['reverse_kl'][position]:.3f}" in text
    preferred = read_topk(trained_site.engine, item["id"], position, 1)[0]["teacher"][0][
        "text"
    ].replace(" ", "·")
    assert re.search(rf"Teacher (wanted|leaned to) “{re.escape(preferred)}”", text)


def test_2_whether_the_teacher_penalises_right_answers(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    walk = walking(2, "Does the teacher penalise right answers?", f"run?id={trained_site.run_id}")
    groups = {g: [i for i in training(trained_site) if i["reward"] == g] for g in (0.0, 1.0)}
    assert all(groups.values())
    for grade, reward in (("right", 1.0), ("wrong", 0.0)):
        cells = page.locator(f'[data-grade="{grade}"]').locator("xpath=ancestor::tr").locator("td")
        kl = counted(trained_site, groups[reward], "reverse_kl")
        assert number_of(cells.nth(1)) == len(groups[reward])
        assert number_of(cells.nth(4)) == pytest.approx(kl.mean(), abs=6e-4)
    means = {i["id"]: counted(trained_site, [i], "reverse_kl").mean() for i in groups[1.0]}
    most = max(means, key=lambda name: means[name])
    walk.click(page.locator('[aria-label="Right, high KL"] a').first)
    page.wait_for_selector(READY)
    walk.key("n")
    walk.done()
    pinned(page, most, worst_of(trained_site, most))
    assert page.locator(".rt-answers summary").first.inner_text().lower().startswith("right")


def test_3_whether_the_student_stops(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    walk = walking(3, "Is the student stopping?", f"run?id={trained_site.run_id}")
    stops = page.locator('[data-insight="stops"]')
    walk.click(stops.locator("summary"))
    items = [i for i in training(trained_site) if i["step"] == 2 and i["finish_reason"] == "stop"]
    ends = [trained_site.columns(i["id"]) for i in items]
    line = stops.locator("tbody tr", has=page.locator("a", has_text=re.compile("^2$")))
    assert number_of(line.locator("td").nth(1)) == len(items) > 0
    for column, name in ((2, "student_logprobs"), (3, "teacher_logprobs")):
        mean = np.mean([np.exp(c[name][-1]) for c in ends])
        assert number_of(line.locator("td").nth(column)) == pytest.approx(mean, abs=6e-3)
    walk.click(line.locator("a"))
    row = worst_row(page)
    end = int(ends[0]["completion_ids"][-1])
    held = [trained_site.columns(i["id"]) for i in training(trained_site) if i["step"] == 2]
    assert total(page) == sum(int((c["completion_ids"] == end).sum()) for c in held)
    walk.click(row)
    walk.done()
    name, position = opened(page)
    assert f"id {end} " in pinned(page, name, position)
    assert trained_site.columns(name)["reverse_kl"][position] == max(
        c["reverse_kl"][c["completion_ids"] == end].max()
        for c in held
        if end in c["completion_ids"]
    )


def test_4_what_changed_between_two_steps(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    probes = sorted(trained_site.rollouts(kind="probe"), key=lambda i: (i["group"], i["step"]))
    first, last = probes[0], probes[2]
    assert (first["step"], last["step"]) == (0, 2) and first["group"] == last["group"]
    then, now = (trained_site.columns(i["id"])["reverse_kl"] for i in (first, last))
    path = f"rollouts?run={trained_site.run_id}"
    walk = walking(4, "What changed between step 5 and step 50?", path)
    walk.choose(page.get_by_label("Kind", exact=True), "probe")
    page.wait_for_function("!document.querySelector('table.rollouts').innerText.includes('train')")
    walk.click(page.locator(f'tr[data-rollout="{last["id"]}"] a'))
    page.wait_for_selector(READY)
    walk.click(page.get_by_role("tab", name="Over time"))
    for step, kl in ((0, then), (2, now)):
        cell = page.locator(f'.ot-steps tr[data-step="{step}"] td').nth(1)
        assert number_of(cell) == pytest.approx(kl.mean(), abs=6e-4)
    walk.click(page.locator('.ot-steps tr[data-step="0"]').get_by_role("button", name="Compare"))
    walk.done()
    expect(page.locator(".cmp-bar")).to_contain_text("probe step 2 minus probe step 0")
    difference = now - then
    at = int(np.argmax(np.abs(difference)))
    sign = "w" if difference[at] > 0 else "c"
    expect(page.locator(f'#token-view [data-index="{at}"]').first).to_have_class(
        re.compile(rf"\b{sign}\d+\b")
    )


def test_5_why_the_kl_is_flat(walking: Walking, page: Any, trained_site: TrainedSite) -> None:
    walk = walking(5, "Why is my KL flat?", f"run?id={trained_site.flat}")
    finding = page.locator(".diagnosis [data-code]:not([data-code=''])").first
    walk.click(finding.locator("summary"))
    kept = read_steps(trained_site.engine, trained_site.flat)["columns"]
    assert set(kept["same_top"]) == {FLAT["same_top"]}
    evidence = {
        row.locator("th").inner_text(): row.locator("td").first.inner_text()
        for row in finding.locator(".diagnosis-evidence tbody tr").all()
    }
    assert evidence["same top token, first steps"] == f"{FLAT['same_top']:.0%}"
    assert evidence["gap to full agreement closed"] == "0%"
    assert evidence["KL, last steps"] == f"{FLAT['reverse_kl']:.2f} nats"
    walk.click(finding.locator("[aria-label='Where to see it'] a").first)
    walk.done()
    page.wait_for_selector(READY)
    name = page.locator("#token-view").get_attribute("data-rollout")
    assert read_rollout(trained_site.engine, name)["run_id"] == trained_site.flat


def test_6_had_the_student_followed_the_teacher(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    wrong = trained_site.rollouts(sort="-kl_max", kind="train", correct=False)
    item = wrong[1]  # the worst one is for tests that count its branches
    position = worst_of(trained_site, item["id"])
    title = "What if the student had followed the teacher here?"
    walk = walking(6, title, f"rollout?id={item['id']}")
    walk.key("n")
    walk.click(page.get_by_role("tab", name="What if"))
    best = read_topk(trained_site.engine, item["id"], position, 1)[0]["teacher"][0]
    page.wait_for_selector(".wi-choice:has(input:checked) :text('teacher’s choice')")
    walk.click(page.locator("#wi-go"))
    card = page.locator(".wi-card[data-author=student]")
    card.wait_for()
    name = card.get_attribute("data-id")
    kl = trained_site.columns(name)["reverse_kl"].astype(np.float64)
    said = card.locator(".wi-figures").inner_text()
    branch = read_rollout(trained_site.engine, name)
    assert f"KL {branch['kl_sum']:.2f} nats" in said
    assert f"{branch['kl_sum'] - kl[position]:.2f} nats after the choice" in said
    assert branch["kl_sum"] == pytest.approx(kl[position:].sum(), abs=1e-4)
    walk.click(card.locator("a"))
    walk.done()
    page.wait_for_selector(f'{READY}[data-rollout="{name}"]')
    before = trained_site.columns(item["id"])["completion_ids"][:position]
    ids = trained_site.columns(name)["completion_ids"]
    assert [*ids[: position + 1]] == [*before, best["id"]]


def test_7_the_class_that_carries_the_disagreement(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    title = "Which kind of token carries the disagreement?"
    walk = walking(7, title, f"run?id={trained_site.run_id}")
    classes = page.locator('[data-part="classes"]')
    classes.locator("tbody tr").first.wait_for()
    shares = {
        row.locator("a").get_attribute("data-class"): number_of(row.locator("td").nth(4))
        for row in classes.locator("tbody tr").all()
    }
    kinds = [kinds_of(trained_site, i) for i in training(trained_site)]
    kl = counted(trained_site, training(trained_site), "reverse_kl")
    of = np.concatenate(kinds)
    expected = {kind: 100 * kl[of == kind].sum() / kl.sum() for kind in np.unique(of)}
    assert shares == pytest.approx(expected, abs=0.06)
    most = max(expected, key=lambda kind: expected[kind])
    walk.click(classes.locator(f'[data-class="{most}"]'))
    row = worst_row(page)
    assert total(page) == (of == most).sum()
    walk.click(row)
    walk.done()
    name, position = opened(page)
    pinned(page, name, position)
    assert trained_site.columns(name)["reverse_kl"][position] == pytest.approx(kl[of == most].max())


def kinds_of(trained_site: TrainedSite, item: dict[str, Any]) -> np.ndarray:
    texts = read_tokens(trained_site.engine, item["id"]).texts
    ids = trained_site.columns(item["id"])["completion_ids"]
    return np.array([kind_of(texts[int(i)]) for i in ids])


def test_8_unsure_or_confidently_wrong(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    title = "Is the student unsure, or confidently wrong?"
    walk = walking(8, title, f"run?id={trained_site.run_id}")
    kl, entropy = (
        counted(trained_site, training(trained_site), n) for n in ("reverse_kl", "student_entropy")
    )
    wrong = (entropy < 0.69) & (kl >= 0.5)
    link = page.get_by_role("link", name="confidently wrong", exact=True)
    cells = link.locator("xpath=ancestor::tr").locator("td")
    assert number_of(cells.nth(1)) == wrong.sum() > 0
    assert number_of(cells.nth(4)) == pytest.approx(100 * kl[wrong].sum() / kl.sum(), abs=0.06)
    walk.click(link)
    row = worst_row(page)
    assert total(page) == wrong.sum()
    walk.click(row)
    walk.done()
    name, position = opened(page)
    pinned(page, name, position)
    record = trained_site.columns(name)
    assert record["reverse_kl"][position] == pytest.approx(kl[wrong].max())
    assert record["student_entropy"][position] < 0.69


def test_9_the_run_that_reached_80_percent_first(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    walk = walking(9, "Which run reached 80% first, and by what ratio?", "")
    for run_id in (trained_site.slow, trained_site.quick):
        walk.click(page.locator(f'tr[data-run="{run_id}"] input'))
    walk.click(page.locator("#compare"))
    walk.type(page.get_by_label("Threshold", exact=True), "0.8")
    walk.done()
    expect(page.locator("#cmp-said")).to_contain_text("≥ 80.0%")
    first = {n: 2 * int(np.argmax(np.array(s) >= 0.8)) for n, s in CLIMBS.items()}
    for name, run_id in (("slow", trained_site.slow), ("quick", trained_site.quick)):
        row = page.locator(f'[data-reach="{run_id}"]')
        assert number_of(row.locator('[data-axis="step"]')) == first[name]
        ratio = row.locator('[data-ratio="step"]').inner_text().rstrip("×")
        assert float(ratio) == pytest.approx(first[name] / first["slow"], abs=6e-3)


def test_10_whether_another_objective_looks_elsewhere(
    walking: Walking, page: Any, trained_site: TrainedSite
) -> None:
    item = trained_site.rollouts(sort="-kl_max", kind="train")[0]
    columns = trained_site.columns(item["id"])
    ratio = columns["student_logprobs"] - columns["teacher_logprobs"]
    moved = np.exp(columns["student_logprobs"] - columns["sampler_logprobs"])
    at = int(np.argmax(np.abs(ratio * moved)))
    title = "Would another objective look elsewhere?"
    walk = walking(10, title, f"rollout?id={item['id']}")
    walk.click(page.get_by_role("tab", name="Loss lab"))
    page.wait_for_selector('.loss-lab[data-ready="true"]')
    walk.choose(page.locator("#lab-objective"), "Policy gradient")
    expect(page.locator(".legend")).to_contain_text("loss lab: Policy gradient")
    darkest = page.locator("#token-view [data-index]").evaluate_all(DARKEST)
    token = page.locator(f'#token-view [data-index="{at}"]').first
    assert darkest == LEVELS and re.search(rf"\b[wc]{LEVELS}\b", token.get_attribute("class"))
    walk.click(token)
    walk.done()
    row = page.locator(f'.ll-token[data-index="{at}"] tr[data-objective="policy_gradient"] td')
    assert number_of(row.first) == pytest.approx(float((ratio * moved)[at]), abs=2e-3)
