"""The tour in a real Chromium: its numbers are the run's, and looking is all it needs."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect
from sqlalchemy import Engine

from bench.support.synthetic import RolloutMaker
from opd.config.run import parse
from opd.types import EvaluationEvent, ModelsEvent, Score, StepEvent
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run, read_runs
from storage.read.tokens import read_tokens, read_topk
from storage.write.records import RunWriter
from tests.conftest import serving
from tests.support.databases.matrix import new_database

pytestmark = pytest.mark.browser
Visit = Callable[..., Any]
ROOT = Path(__file__).parents[2]
PATIENCE = 120_000  # ms, for a busy machine
TOKEN, VIEW = "browser-tests", "only-looking"
HEADLINES = (
    *("The student makes mistakes", "The coach judges every token", "Training closes the gap"),
    *("The same problem, after training", "What it cost, and what comes next"),
)


class Demo:
    """A demo run whose records this test writes: a wrong answer first, a right one later."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.run_id = jobs.create_run(engine, parse({"name": "told", "steps": 2}), recipe="demo")
        attempt = jobs.claim(engine, self.run_id, self.run_id, jobs.Owner(1, 0.0, "test"))
        assert attempt is not None
        self.attempt = attempt
        self.source = RolloutMaker(5)
        self.store = RunWriter(engine, self.run_id, attempt)
        self.store.models(ModelsEvent({}, f"told-{self.run_id}", "cpu"), {})

    def evaluation(self, step: int, value: float, right: bool) -> None:
        ids = self.source.completion(24)
        made = self.source.of_ids(
            ids,
            step=step,
            group_and_sample=(7, 0),
            fade=1.0 if step == 0 else 0.1,
            prompt="How many?",
        )
        rollout = type(made)(
            **{**vars(made), "kind": "eval", "reward": float(right), "answer": "33"}
        )
        score = Score("heldout", "pass@1", value, 200, 0.03)
        self.store.evaluation(
            EvaluationEvent(step, [score], [rollout]), self.source.vocabulary.lookup
        )

    def step(self, step: int, kl: float) -> None:
        event = StepEvent(step, {"sample": 1.0}, 60, 1e9, {"reverse_kl": kl}, [])
        self.store.step(event, self.source.vocabulary.lookup)

    def finished(self) -> "Demo":
        self.evaluation(0, 0.35, right=False)
        self.step(1, 0.5)
        self.step(2, 0.25)
        self.evaluation(2, 0.9, right=True)
        jobs.finish(self.engine, self.run_id, self.attempt, "finished")
        return self


class Bare:
    """An empty data directory, served with a token for looking only."""

    def __init__(self, folder: Path, address: str) -> None:
        self.engine = new_database(folder)
        self.address = address


@pytest.fixture
def bare(chromium: Any, tmp_path: Path) -> Iterator[Bare]:
    new_database(tmp_path).dispose()
    with serving(tmp_path, VIEW) as address:
        made = Bare(tmp_path, address)
        yield made
        made.engine.dispose()


def not_there_yet(page: Any, text: str) -> None:
    """The step says that something is not there yet."""
    expect(page.locator(".tour-piece .face")).to_contain_text(text, timeout=PATIENCE)


def headed(page: Any, text: str) -> None:
    expect(page.locator("h1")).to_have_text(text, timeout=PATIENCE)


def figure(page: Any, name: str) -> str:
    return str(page.locator(f'[data-figure="{name}"]').inner_text())


def test_every_step_tells_with_the_runs_own_numbers(open_page: Visit, site: Any) -> None:
    demo = Demo(site.engine).finished()
    run = read_run(site.engine, demo.run_id)
    items = read_rollouts(site.engine, demo.run_id, kind="eval", sort="step")["items"]
    [wrong, right] = items
    page = open_page(f"/tour?run={demo.run_id}")
    page.wait_for_selector(f'.tour-answer[data-rollout="{wrong["id"]}"]')
    assert figure(page, "start") == "35%"
    assert "wrong, correct answer 33 · step 0" in page.inner_text(".tour-answer")

    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tour-say")
    kl = read_tokens(site.engine, wrong["id"], ("reverse_kl",)).columns["reverse_kl"]
    worst = int(np.argmax(kl))
    href = page.locator("#tour-token").get_attribute("href")
    assert href == f"rollout?id={wrong['id']}&pos={worst}"
    preferred = read_topk(site.engine, wrong["id"], worst, 1)[0]["teacher"][0]["text"]
    preferred = preferred.replace(" ", "·")
    said = page.locator("#tour-say").inner_text()
    assert (
        re.match(rf"Coach (wanted|leaned to) “{re.escape(preferred)}” \(", said)
        and "; the student wrote “" in said
    )
    page.click("#tour-token")
    page.wait_for_selector(f'#token-detail[data-index="{worst}"]')
    same = said.replace("Coach", "Teacher").replace("coach", "teacher")  # the tour tells a story
    expect(page.locator("#token-detail .dt-say")).to_have_text(same)  # once its alternatives came
    page.go_back()

    page.wait_for_selector('.tour-stage[data-step="2"]')
    page.keyboard.press("ArrowRight")
    page.wait_for_selector('[data-figure="kl"]')
    shown = [figure(page, n) for n in ("kl-start", "kl", "score-start", "score")]
    assert shown == ["0.500", "0.250", "35%", "90%"]
    assert "KL fell from 0.500 to 0.250" in page.inner_text(".tour-text")
    page.wait_for_selector('[data-chart="Score"] .js-plotly-plot')
    script = "e => [...e.data[0].y]"
    assert page.locator('[data-chart="Score"] .js-plotly-plot').evaluate(script) == [0.35, 0.9]

    page.keyboard.press("ArrowRight")
    page.wait_for_selector(f'.tour-pair [data-rollout="{right["id"]}"]')
    sides = page.locator(".tour-pair .panel").evaluate_all("e => e.map(s => s.dataset.rollout)")
    assert sides == [wrong["id"], right["id"]]

    page.keyboard.press("ArrowRight")
    page.wait_for_selector('[data-figure="steps"]')
    assert figure(page, "steps") == "2 of 2"
    assert figure(page, "tokens") == str(run["tokens"])
    assert figure(page, "flops") == "2.00 GFLOP"


def test_keys_address_and_going_back(open_page: Visit, site: Any) -> None:
    demo = Demo(site.engine).finished()
    page = open_page(f"/tour?run={demo.run_id}&step=3")
    page.wait_for_selector(".tour-nav")
    for key, step in (("ArrowRight", 4), ("ArrowRight", 5), ("ArrowRight", 5), ("ArrowLeft", 4)):
        page.keyboard.press(key)
        page.wait_for_function(f"location.search.includes('step={step}')")
        headed(page, HEADLINES[step - 1])
    page.go_back()
    headed(page, HEADLINES[4])
    page.locator('[data-step="1"].tour-mark').click()
    headed(page, HEADLINES[0])
    assert page.locator("#tour-back").is_disabled()
    page.reload()
    headed(page, HEADLINES[0])
    assert (
        page.evaluate("parseFloat(getComputedStyle(document.querySelector('.opd')).fontSize)") >= 18
    )


def test_a_run_that_goes_on_fills_the_tour(open_page: Visit, site: Any) -> None:
    demo = Demo(site.engine)
    page = open_page(f"/tour?run={demo.run_id}")
    not_there_yet(page, "first wrong answer is not available yet")
    demo.evaluation(0, 0.35, right=False)
    page.wait_for_selector(".tour-answer")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tour-say")
    page.keyboard.press("ArrowRight")
    not_there_yet(page, "first step is not available yet")
    demo.step(1, 0.5)
    page.wait_for_selector('[data-figure="kl"]')
    page.keyboard.press("ArrowRight")
    not_there_yet(page, "is not available yet")
    demo.step(2, 0.25)
    demo.evaluation(2, 0.9, right=True)
    page.wait_for_selector(".tour-pair")
    jobs.finish(site.engine, demo.run_id, demo.attempt, "finished")


def test_looking_only_is_enough_and_an_empty_place_says_what_to_do(
    chromium: Any, bare: Bare
) -> None:
    methods: list[str] = []
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.request.get(f"{bare.address}/?token={VIEW}")
    page = context.new_page()
    page.on("request", lambda r: methods.append(r.method) if "/api/v1/" in r.url else None)
    page.goto(f"{bare.address}/tour")
    page.wait_for_selector("text=No demo run yet")
    page.wait_for_selector("text=This link is read-only")
    assert page.locator("[data-start-demo]").count() == 0
    Demo(bare.engine).finished()
    page.goto(f"{bare.address}/tour")
    for headline in HEADLINES:
        headed(page, headline)
        page.wait_for_selector(".tour-piece > *")
        page.keyboard.press("ArrowRight")
    assert set(methods) == {"GET"}
    context.close()


def test_with_write_access_an_empty_place_starts_the_demo(chromium: Any, bare: Bare) -> None:
    context = chromium.new_context()
    context.request.get(f"{bare.address}/?token={TOKEN}")
    page = context.new_page()
    page.goto(f"{bare.address}/tour")
    page.click("[data-start-demo]")
    page.wait_for_url("**/tour?run=run-*")
    not_there_yet(page, "not available yet")
    [run] = read_runs(bare.engine)["items"]
    assert (run["recipe"], run["status"]) == ("demo", "queued")
    assert f"run={run['id']}" in page.url
    context.close()


def test_a_run_without_gain_is_not_told_as_a_success(open_page: Visit, site: Any) -> None:
    demo = Demo(site.engine)
    demo.evaluation(0, 0.0, right=False)
    demo.step(1, 0.25)
    demo.step(2, 0.5)
    demo.evaluation(2, 0.0, right=False)
    jobs.finish(site.engine, demo.run_id, demo.attempt, "finished")
    page = open_page(f"/tour?run={demo.run_id}&step=3")
    headed(page, "The score has not changed")
    text = page.locator(".tour-text")
    expect(text).to_contain_text("KL rose from 0.250 to 0.500")
    expect(text).to_contain_text("within what chance explains")


def test_one_chooses_among_runs_of_the_bundled_pair_only(open_page: Visit, site: Any) -> None:
    first, second = Demo(site.engine).finished(), Demo(site.engine).finished()
    other = parse({"student": "bundled/small", "name": "other models"})
    other_id = jobs.create_run(site.engine, other, recipe="demo")
    page = open_page(f"/tour?run={first.run_id}")
    choice = page.locator("#tour-run")
    choice.wait_for()
    offered = choice.locator("option").evaluate_all("e => e.map(o => o.value)")
    assert {first.run_id, second.run_id} <= set(offered) and other_id not in offered
    choice.select_option(second.run_id)
    page.wait_for_function(f"location.search.includes('{second.run_id}')")
    page = open_page(f"/tour?run={other_id}")
    page.wait_for_selector("text=The tour cannot tell this run")
    jobs.request_cancel(site.engine, other_id, "discard")
