"""Lists, facts, tables: the numbers on the pages are those of the store, computed anew."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_evaluations, read_run, read_runs, read_steps
from storage.read.tokens import read_tokens
from tests.browser.test_pages import columns

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
STEP = 20  # of the site's newest run, with the long rollouts


def number(text: str) -> float:
    """The number that a cell begins with; its prefix (k, M, G) counts."""
    match = re.match(r"(−?[\d,.]+)\s*([kMGTP]?)", text.strip())
    assert match, text
    return float(match[1].replace("−", "-").replace(",", "")) * 1000 ** " kMGTP".index(
        match[2] or " "
    )


def cells(row: Any) -> list[str]:
    texts: list[str] = row.locator("td").all_inner_texts()
    return texts


def all_rollouts(site: Any, **filters: Any) -> list[dict[str, Any]]:
    rollouts: list[dict[str, Any]] = []
    while True:
        answer = read_rollouts(site.engine, site.run_id, limit=200, offset=len(rollouts), **filters)
        rollouts += answer["items"]
        if len(rollouts) == answer["total"]:
            return rollouts


def test_the_list_of_rollouts(open_page: Visit, site: Any) -> None:
    page = open_page(f"/rollouts?run={site.run_id}&step={STEP}&sort=-kl_max")
    page.wait_for_selector("tr[data-rollout]")
    rows = page.locator("tr[data-rollout]").all()
    assert len(rows) > 3
    most = []
    for row in rows:
        kl = columns(site, row.get_attribute("data-rollout"))["reverse_kl"].astype(np.float64)
        text = cells(row)
        assert number(text[0]) == STEP
        assert number(text[5]) == len(kl)
        assert number(text[6]) == pytest.approx(kl.sum(), abs=0.0051 if kl.sum() < 1000 else 0.51)
        assert number(text[7]) == pytest.approx(kl.mean(), abs=6e-4)
        assert number(text[8]) == pytest.approx(kl.max(), abs=6e-3)
        most.append(kl.max())
    assert most == sorted(most, reverse=True)


def test_the_answer_and_what_was_extracted_stand_beside_the_grade(
    open_page: Visit, site: Any
) -> None:
    item = next(i for i in all_rollouts(site) if i["answer"] is not None)
    page = open_page(f"/rollout?id={item['id']}")
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 800})
        line = page.locator(".rt-answers > summary")
        line.wait_for()
        said = line.inner_text()
        assert item["answer"][:20] in said
        assert (item["extracted"] or item["extraction_note"])[:20] in said
    line.click()
    assert item["answer"] in page.locator(".rt-answers-full").first.inner_text()


def test_the_worst_tokens(open_page: Visit, site: Any) -> None:
    stored = {item["id"]: columns(site, item["id"]) for item in all_rollouts(site)}
    page = open_page(f"/rollouts?run={site.run_id}&view=worst")
    page.wait_for_selector(".worst-row")
    rows = page.locator(".worst-row")
    assert rows.count() == 25
    said = page.locator(".worst-source").inner_text()
    kept = int(number(said.removeprefix("The ")))
    kl_of = [np.sort(c["reverse_kl"])[::-1][:kept] for c in stored.values()]
    heats = np.sort(np.concatenate(kl_of))[::-1]
    for index, row in enumerate(rows.all()):
        href = row.get_attribute("href")
        name, position = re.findall(r"id=([^&]+)&pos=(\d+)", href)[0]
        kl = stored[name]["reverse_kl"][int(position)]
        assert kl == heats[index]
        shown = row.locator(".worst-value").inner_text()
        assert number(shown) == pytest.approx(float(kl), abs=6e-3)
        assert row.get_attribute("data-token") == str(stored[name]["completion_ids"][int(position)])
        assert f"step {read_rollout(site.engine, name)['step']}" in row.inner_text()


def test_the_facts_of_a_run(open_page: Visit, site: Any) -> None:
    steps = read_steps(site.engine, site.run_id)["columns"]
    scores = read_evaluations(site.engine, site.run_id)["items"]
    main = [s["value"] for s in scores if (s["suite"], s["metric"]) == ("temperature 1", "pass@1")]
    page = open_page(f"/run?id={site.run_id}")
    page.wait_for_selector(".run-facts dd")
    page.locator(".run-facts", has_text="/s").wait_for()
    facts = dict(
        zip(
            page.locator(".run-facts dt").all_inner_texts(),
            page.locator(".run-facts dd").all_inner_texts(),
            strict=True,
        )
    )
    first, last = facts["KL, nats per token"].split("→")
    assert number(first) == pytest.approx(steps["reverse_kl"][0], abs=6e-4)
    assert number(last) == pytest.approx(steps["reverse_kl"][-1], abs=6e-4)
    start, end = facts["Score"].split("→")
    assert number(start) == pytest.approx(100 * main[0], abs=0.51)
    assert number(end) == pytest.approx(100 * main[-1], abs=0.51)
    assert number(facts["Tokens"]) == pytest.approx(sum(steps["tokens"]), rel=0.006)
    assert number(facts["Compute"]) == pytest.approx(sum(steps["flops"]), rel=0.006)
    phases = [v for n, v in steps.items() if n.startswith("seconds_") and n != "seconds_evaluate"]
    speed = np.mean(steps["tokens"][-10:]) / np.sum([v[-10:] for v in phases], axis=0).mean()
    assert number(facts["Tokens"].split("·")[1]) == pytest.approx(speed, rel=0.006)
    bar = page.locator("[role=progressbar]")
    assert bar.get_attribute("aria-valuenow") == str(steps["step"][-1])
    shown = page.get_by_role("link", name=re.compile("^Rollouts ")).inner_text()
    assert number(shown.removeprefix("Rollouts ")) == len(all_rollouts(site))


def test_the_tables_of_a_comparison(open_page: Visit, site: Any) -> None:
    runs = read_runs(site.engine, search="word", limit=2)["items"]
    ids = [run["id"] for run in runs]
    page = open_page(f"/compare?runs={','.join(ids)}&baseline={ids[0]}")
    page.wait_for_selector("[data-reach]")
    heads = page.locator('[aria-label="Runs compared"] th').all_inner_texts()
    steps = {name: read_steps(site.engine, name)["columns"] for name in ids}
    curves = {}
    for name in ids:
        row = dict(zip(heads, cells(page.locator(f'[data-compared="{name}"]')), strict=True))
        done = steps[name]
        spent = sum(sum(v) for n, v in done.items() if n.startswith("seconds_"))
        assert number(row["Steps"]) == done["step"][-1]
        assert number(row["Tokens"]) == pytest.approx(sum(done["tokens"]), rel=0.006)
        assert number(row["Compute"]) == pytest.approx(sum(done["flops"]), rel=0.006)
        assert spent < 60  # whole seconds are shown
        assert number(row["Training time"]) == pytest.approx(spent, abs=0.51)
        assert number(row["Seed"]) == read_run(site.engine, name)["config"]["seed"]
        scores = read_evaluations(site.engine, name)["items"]
        curves[name] = [
            (s["step"], s["value"])
            for s in scores
            if (s["suite"], s["metric"]) == ("temperature 1", "pass@1")
        ]
    target = min(max(value for _, value in curve) for curve in curves.values())
    reached = {n: next(s for s, v in c if v >= target) for n, c in curves.items()}
    for name in ids:
        row = page.locator(f'[data-reach="{name}"]')
        done = steps[name]
        tokens = sum(
            t for s, t in zip(done["step"], done["tokens"], strict=True) if s <= reached[name]
        )
        assert number(cells(row)[1]) == pytest.approx(
            100 * max(v for _, v in curves[name]), abs=0.06
        )
        assert number(row.locator('[data-axis="step"]').inner_text()) == reached[name]
        assert number(row.locator('[data-axis="tokens"]').inner_text()) == pytest.approx(
            tokens, rel=0.006
        )
        ratio = number(row.locator('[data-ratio="step"]').inner_text())
        assert ratio == pytest.approx(reached[name] / reached[ids[0]], abs=6e-3)


def test_the_shares_of_the_classes(open_page: Visit, site: Any) -> None:
    """Every class adds up with its own tokens; all of them with the run's."""
    page = open_page(f"/run?id={site.run_id}")
    page.locator(".insights").scroll_into_view_if_needed()
    table = page.locator('[data-part="classes"] tbody tr')
    table.first.wait_for()
    kl, kind = [], []
    for item in all_rollouts(site, kind="train"):
        record = columns(site, item["id"])
        texts = read_tokens(site.engine, item["id"]).texts
        kept = record["mask"] > 0
        kl.append(record["reverse_kl"][kept])
        kind.append([kind_of(texts[int(i)]) for i in record["completion_ids"][kept]])
    values, kinds = np.concatenate(kl).astype(np.float64), np.concatenate(kind)
    shown = {row.locator("a").get_attribute("data-class"): cells(row) for row in table.all()}
    for name in ("number", "special", "thinking", "word"):
        mine = values[kinds == name]
        _, tokens, share, mean, part = shown[name]
        assert number(tokens) == len(mine)
        assert number(share) == pytest.approx(100 * len(mine) / len(values), abs=0.06)
        assert number(mean) == pytest.approx(mine.mean(), rel=0.006)
        assert number(part) == pytest.approx(100 * mine.sum() / values.sum(), abs=0.06)
    assert sum(number(row[1]) for row in shown.values()) == len(values)
    assert sum(number(row[4]) for row in shown.values()) == pytest.approx(100, abs=0.3)


def kind_of(entry: dict[str, Any]) -> str:
    """The class of a token by its text, of those that a text alone settles."""
    text = (entry["t"] or "").strip()
    if text in ("<think>", "</think>"):
        return "thinking"
    if entry.get("s"):
        return "special"
    if text.isdecimal():
        return "number"
    return "word" if any(c.isalpha() for c in text) else "operator"
