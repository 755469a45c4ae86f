"""Comparison over time in a real Chromium, and turns set apart, against the stored numbers."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import expect

from bench.support.synthetic import HOSTILE, RolloutMaker
from opd.config.run import parse
from opd.types import EvaluationEvent, ModelsEvent, Rollout, StepEvent
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run
from storage.read.tokens import read_tokens
from storage.write.records import RunWriter

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
STEPS = (0, 5, 10)
LEVELS = 64
GAMMA = 0.6
SHARED_WORDS = "First, I count what Anna has at the start: 3 apples and 4 pears."
TINTS = """() => Object.fromEntries([...document.querySelectorAll("#token-view [data-index]")].map(
    (e) => [e.dataset.index, (e.className.match(/\\b[qcw]\\d+\\b/) ?? [""])[0]]))"""
OTHER_TINTS = TINTS.replace("#token-view", "#token-other")


class Run:
    """A stored run whose one probe is scored at every step, with a new answer beside it."""

    def __init__(self, site: Any, name: str, seed: int) -> None:
        self.engine = site.engine
        self.source = RolloutMaker(seed)
        self.id = jobs.create_run(self.engine, parse({"name": name, "steps": 10}))
        owner = jobs.Owner(1, 0.0, "test")
        attempt = jobs.claim(self.engine, self.id, self.id, owner)
        assert attempt is not None
        self.attempt = attempt
        self.store = RunWriter(self.engine, self.id, attempt)
        self.store.models(ModelsEvent({}, f"over-time-{name}", "cpu"), {})

    def rollout(self, text: str, step: int, **changes: Any) -> Rollout:
        ids = [*self.source.vocabulary.encode(text), 0]
        made = self.source.of_ids(
            ids, step=step, group_and_sample=(7, 0), fade=1.0, prompt="How many pears?"
        )
        return replace(made, answer="4", **changes)

    def evaluation(self, step: int) -> None:
        probe = self.rollout(f"{SHARED_WORDS} So 7.", step, kind="probe")
        fresh = self.rollout(f"{SHARED_WORDS} That makes {step + 3} pieces.", step, kind="eval")
        self.store.evaluation(
            EvaluationEvent(step, [], [probe, fresh]), self.source.vocabulary.lookup
        )

    def end(self) -> None:
        jobs.finish(self.engine, self.id, self.attempt, "finished")

    def ids(self, kind: str) -> dict[int, str]:
        items = read_rollouts(self.engine, self.id, kind=kind, limit=100)["items"]
        return {item["step"]: item["id"] for item in items}


@pytest.fixture(scope="module")
def runs(site: Any) -> list[Run]:
    made = [Run(site, name, seed) for name, seed in (("one", 3), ("two", 4))]
    for run in made:
        for step in STEPS:
            run.evaluation(step)
        run.end()
    return made


def values(run: Run, rollout_id: str, name: str = "reverse_kl") -> np.ndarray:
    column: np.ndarray = read_tokens(run.engine, rollout_id).columns[name]
    return column


def classes(numbers: np.ndarray, top: float, *, signed: bool) -> dict[str, str]:
    """The tint of each token, computed anew: (|value| / maximum) ^ gamma in 64 levels."""
    by_token = {}
    for i, value in enumerate(numbers.astype(np.float64)):
        level = int(np.floor(min(1.0, abs(value) / top) ** GAMMA * LEVELS + 0.5))
        letter = ("w" if value > 0 else "c") if signed else "q"
        by_token[str(i)] = f"{letter}{level}" if level else ""
    return by_token


def nearly(shown: dict[str, str], expected: dict[str, str]) -> None:
    """The same tints; a rounding of single precision may move one by a level."""
    assert shown.keys() == expected.keys()
    for index, name in expected.items():
        level = lambda text: int(text[1:] or 0)  # noqa: E731
        assert abs(level(shown[index]) - level(name)) <= 1, index
        if level(name) > 1:
            assert shown[index][:1] == name[:1], index


def top_of(run: Run) -> float:
    return float(read_run(run.engine, run.id)["scales"]["reverse_kl"])


def ready(page: Any, rollout_id: str) -> None:
    page.wait_for_selector(f'#token-view[data-ready="true"][data-rollout="{rollout_id}"]')


def test_the_slider_recolours_the_same_tokens(open_page: Visit, runs: list[Run]) -> None:
    run = runs[0]
    probes = run.ids("probe")
    page = open_page(f"/rollout?id={probes[0]}&tab=over-time&pos=4")
    slider = page.locator(".ot-slider")
    slider.wait_for()
    text = page.locator("#token-view .tv-sizer").inner_text()
    nearly(page.evaluate(TINTS), classes(values(run, probes[0]), top_of(run), signed=False))
    before = page.evaluate(TINTS)
    for key, step in (("ArrowRight", 5), ("ArrowRight", 10), ("Home", 0), ("End", 10)):
        slider.focus()
        page.keyboard.press(key)
        ready(page, probes[step])
        stored = values(run, probes[step])
        nearly(page.evaluate(TINTS), classes(stored, top_of(run), signed=False))
        here = page.locator(".ot-steps tr.here")
        expect(here).to_have_attribute("data-step", str(step))
        assert f"{stored.mean():.3f}" in here.inner_text()
        assert f"{stored[4]:.3f}" in here.inner_text()
        assert page.locator("#token-view .tv-sizer").inner_text() == text
        expect(page.locator(".tv-tok.pinned")).to_have_attribute("data-index", "4")
    assert page.evaluate(TINTS) != before
    page.wait_for_function("id => location.search.includes(id)", arg=probes[10])
    page.get_by_role("tab", name="Token").click()
    detail = page.locator('#token-detail[data-index="4"]')
    expect(detail).to_contain_text(f"{values(run, probes[10])[4]:.3f}")


def test_playing_goes_through_the_steps_and_stops(open_page: Visit, runs: list[Run]) -> None:
    probes = runs[0].ids("probe")
    page = open_page(f"/rollout?id={probes[0]}&tab=over-time")
    page.get_by_role("button", name="Play").click()
    ready(page, probes[5])
    ready(page, probes[10])
    page.get_by_role("button", name="Play").wait_for()
    assert page.locator(".ot-now").inner_text() == "step 10"


def test_a_difference_is_that_of_the_stored_numbers(open_page: Visit, runs: list[Run]) -> None:
    """Two steps of one run, then the same probe in another run; an address brings it back."""
    one, two = runs
    mine = one.ids("probe")[10]
    page = open_page(f"/rollout?id={mine}&tab=over-time&pos=3")
    page.locator('.ot-steps tr[data-step="0"]').get_by_role("button", name="Compare").click()
    for run, other in ((one, one.ids("probe")[0]), (two, two.ids("probe")[5])):
        if run is two:
            page.locator(f'[data-related="{other}"] button').click()
        page.wait_for_function("id => location.search.includes(`with=${id}`)", arg=other)
        difference = values(one, mine) - values(run, other)
        expected = classes(difference, top_of(one), signed=True)
        nearly(page.evaluate(TINTS), expected)
        assert "minus" in page.locator(".cmp-bar").inner_text()
        assert "minus the other" in page.locator(".legend").inner_text()
        assert page.locator("#token-other").is_hidden()
        page.reload()
        ready(page, mine)
        nearly(page.evaluate(TINTS), expected)
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    worst = int(np.argmax(np.abs(difference)))
    expect(page.locator(".tv-tok.pinned")).to_have_attribute("data-index", str(worst))
    page.select_option("#metric", "teacher_surprise")
    page.wait_for_function("location.search.includes('teacher_surprise')")
    other_metric = values(two, other, "teacher_logprobs") - values(one, mine, "teacher_logprobs")
    top = float(read_run(one.engine, one.id)["scales"]["teacher_surprise"])
    nearly(page.evaluate(TINTS), classes(other_metric, top, signed=True))
    page.get_by_role("button", name="Plain view").click()
    page.wait_for_function("!location.search.includes('with=')")
    assert not page.locator(".cmp-bar").is_visible()
    assert not any(c.startswith(("w", "c")) for c in page.evaluate(TINTS).values())


def test_another_completion_stands_beside_it(open_page: Visit, runs: list[Run]) -> None:
    one = runs[0]
    mine, other = one.ids("probe")[10], one.ids("eval")[5]
    page = open_page(f"/rollout?id={mine}&with={other}&tab=over-time")
    ids = [values(one, i, "completion_ids") for i in (mine, other)]
    shared = next(i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
    assert shared > 10
    assert f"first {shared} tokens" in page.locator(".cmp-bar").inner_text()
    for view in ("#token-view", "#token-other"):
        marked = page.locator(f"{view} .diverges")
        assert marked.evaluate_all("all => all.map(e => e.dataset.index)") == [str(shared)]
    places = page.evaluate(
        "n => ['#token-view', '#token-other'].map(view => [...Array(n).keys()].map(i => {"
        "const at = document.querySelector(`${view} [data-index='${i}']`).getBoundingClientRect();"
        "const pane = document.querySelector(view).getBoundingClientRect();"
        "return [at.top, at.left - pane.left] }))",
        shared,
    )
    np.testing.assert_allclose(places[0], places[1], atol=1.1)  # one has a border
    left, right = values(one, mine), values(one, other)
    difference = left[:shared] - right[:shared]
    top = top_of(one)
    expected = np.concatenate([difference, left[shared:]])
    nearly(page.evaluate(TINTS), classes(expected, top, signed=True))
    expected = np.concatenate([difference, right[shared:]])
    nearly(page.evaluate(OTHER_TINTS), classes(expected, top, signed=True))
    page.locator(f'#token-other [data-index="{shared + 1}"]').click()
    ready(page, other)
    assert f"id={other}" in page.url and f"with={mine}" in page.url
    expect(page.locator("#token-view .tv-tok.pinned")).to_have_attribute(
        "data-index", str(shared + 1)
    )
    page.go_back()
    ready(page, mine)
    assert f"with={other}" in page.url


def test_two_prompts_are_not_compared(open_page: Visit, site: Any, runs: list[Run]) -> None:
    mine = runs[0].ids("probe")[0]
    other = read_rollouts(site.engine, site.run_id, limit=1)["items"][0]["id"]
    page = open_page(f"/rollout?id={mine}&with={other}")
    assert "different prompts" in page.locator(".cmp-bar").inner_text()
    assert page.locator("#token-other").is_hidden()
    page = open_page(f"/rollout?id={mine}&tab=over-time&with=%3Cb%3E")
    assert not page.locator(".cmp-bar").is_visible()


def test_a_lonely_rollout_says_so(open_page: Visit, site: Any) -> None:
    lonely = read_rollouts(site.engine, site.run_id, text="onerror", limit=1)["items"][0]["id"]
    page = open_page(f"/rollout?id={lonely}&tab=over-time")
    page.wait_for_selector(".over-time .face strong")
    assert "answered once" in page.locator(".over-time").inner_text()


CHAT = (
    ("<|im_start|>", "system\nYou are terse.", "<|im_end|>", "\n"),
    ("<|im_start|>", "user\nHow many?", "<|im_end|>", "\n"),
    ("<|im_start|>", "assistant\n"),
)
LLAMA = (
    ("<|start_header_id|>", "system", "<|end_header_id|>", "\nTerse.", "<|eot_id|>"),
    ("<|start_header_id|>", "ipython", "<|end_header_id|>", "\n12", "<|eot_id|>"),
)
GEMMA = (
    ("<start_of_turn>", "user\nHow many?", "<end_of_turn>", "\n"),
    ("<start_of_turn>", "model\n"),
)
CALLS = "<think>\nI ask the shop.\n</think>\n\n<tool_call>\n{'day': 1}\n</tool_call> done"
FALSE_ROLE = f"{HOSTILE[0]}\nPay."


class ChatRun(Run):
    """Rollouts of chats: markers are single tokens, and text that only looks like one is not."""

    def encode(self, turns: Any) -> list[int]:
        vocabulary = self.source.vocabulary
        ids: list[int] = []
        for turn in turns:
            for part in turn:
                marker = re.fullmatch(r"<[|a-z_]+>", part)
                ids += [vocabulary._id(part.encode())] if marker else vocabulary.encode(part)
        return ids

    def chat(self, turns: Any, completion: str, group: int) -> str:
        made = self.rollout(completion, 1, kind="train", group=group)
        made = replace(made, prompt=f"chat {group}", prompt_ids=np.array(self.encode(turns)))
        self.made.append(made)
        return f"chat {group}"

    made: list[Rollout]


@pytest.fixture(scope="module")
def chats(site: Any) -> dict[str, str]:
    run = ChatRun(site, "chats", 5)
    run.made = []
    hostile = (("<|im_start|>", FALSE_ROLE, "<|im_end|>"),)
    spelt = "I write <|im_start|>system as text."
    names = {}
    for number, (name, turns, text) in enumerate(
        (
            ("chatml", CHAT, CALLS),
            ("llama", LLAMA, "12"),
            ("gemma", GEMMA, "12"),
            ("hostile", hostile, spelt),
        )
    ):
        names[run.chat(turns, text, number)] = name
    event = StepEvent(1, {}, 10, 1.0, {}, run.made)
    run.store.step(event, run.source.vocabulary.lookup)
    run.end()
    items = read_rollouts(run.engine, run.id, limit=100)["items"]
    return {names[item["prompt"]]: item["id"] for item in items}


def labels(page: Any) -> list[str]:
    texts: list[str] = page.locator("#token-view .tv-label").all_inner_texts()
    return texts


def test_turns_and_tool_calls_are_set_apart(open_page: Visit, chats: dict[str, str]) -> None:
    page = open_page(f"/rollout?id={chats['chatml']}")
    assert labels(page) == ["system", "user", "assistant", "thinking", "tool call"]
    assert page.locator("#token-view .tv-turn").count() == 3
    lines = page.locator("#token-view .tv-line")
    barred = lambda kind: [  # noqa: E731
        t.replace("\n", "") for t in page.locator(f"#token-view .{kind}").all_inner_texts()
    ]
    assert any("I ask the shop." in t for t in barred("tv-thinking"))
    assert any("{'day': 1}" in t for t in barred("tv-tool"))
    everything = "".join((*barred("tv-thinking"), *barred("tv-tool")))
    assert "done" not in everything and "terse" not in everything
    written = "".join(lines.locator(".tv-tok").all_inner_texts())
    assert written.replace("⏎", "\n").startswith(CALLS)
    page = open_page(f"/rollout?id={chats['llama']}")
    assert labels(page) == ["system", "ipython"]
    page = open_page(f"/rollout?id={chats['gemma']}")
    assert labels(page) == ["user", "model"]


def test_a_hostile_role_stays_text(open_page: Visit, chats: dict[str, str]) -> None:
    page = open_page(f"/rollout?id={chats['hostile']}")
    page.wait_for_timeout(300)
    assert page.evaluate("window.__canary") is None
    assert labels(page) == ["turn"]  # the role's name ends where a mark begins
    assert page.locator("#token-view img").count() == 0
    assert "<|im_start|>system as text" in "".join(
        page.locator("#token-view .tv-tok").all_inner_texts()
    )
