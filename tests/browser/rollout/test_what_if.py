"""What-if and the playground in a real browser, with the real server, supervisor and models."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.support.trained_site import VIEW, TrainedSite, visiting

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class Studio:
    address: str
    run_id: str
    page: Any

    def get(self, path: str) -> Any:
        return self.page.request.get(f"{self.address}/api/v1/{path}").json()


@pytest.fixture
def studio(chromium: Any, trained_site: TrainedSite) -> Iterator[Studio]:
    with visiting(chromium, trained_site.link) as page:
        yield Studio(trained_site.address, trained_site.run_id, page)


def worst(trained_site: TrainedSite) -> tuple[str, int]:
    """The run's worst token."""
    name = str(trained_site.rollouts(sort="-kl_max", kind="train")[0]["id"])
    return name, int(np.argmax(trained_site.columns(name)["reverse_kl"]))


def shown(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def test_the_worst_token_goes_on_otherwise(studio: Studio, trained_site: TrainedSite) -> None:
    page = studio.page
    rollout, position = worst(trained_site)
    page.goto(f"{studio.address}/rollout?id={rollout}")
    page.wait_for_selector('#token-view[data-ready="true"]')
    page.keyboard.press("n")
    page.get_by_role("tab", name="What if").click()
    page.wait_for_selector(".wi-choice:has(input:checked) :text('teacher’s choice')")
    best = studio.get(f"rollouts/{rollout}/topk?position={position}")["items"][0]["teacher"][0]
    assert page.locator(".wi-choices input:checked").input_value() == str(best["id"])
    page.locator("#wi-temperature").fill("0")
    page.locator("#wi-go").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".wi-card[data-author=student]")
    cards = page.locator(".wi-card")
    assert [c.get_attribute("data-author") for c in cards.all()] == ["student", "teacher"]
    branches = studio.get(f"rollouts/{rollout}/branches")["items"]
    assert sorted(b["id"] for b in branches) == sorted(
        c.get_attribute("data-id") for c in cards.all()
    )
    for branch, card in zip(
        sorted(branches, key=lambda b: str(b["author"])), cards.all(), strict=True
    ):
        assert f"KL {shown(branch['kl_sum'])} nats" in card.inner_text()
        assert branch["position"] == position
    page.wait_for_selector("#what-if-earlier tbody tr:nth-child(2)")
    by_keyboard(page)
    open_branch(studio, branches, best, position)


def by_keyboard(page: Any) -> None:
    """A continuation is one tab stop; arrow keys tell each token's figures."""
    text = page.locator(".wi-card .tinted").first
    text.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('.wi-detail').innerText.includes('reverse KL')")
    assert page.locator(".wi-card [tabindex='0']").count() == 2


def open_branch(studio: Studio, branches: list[Any], best: Any, position: int) -> None:
    """The link opens the branch in the token view, with the numbers that are stored."""
    page = studio.page
    branch = next(b for b in branches if b["author"] == "student")
    page.locator(".wi-card[data-author=student] a").click()
    page.wait_for_selector(f'#token-view[data-ready="true"][data-rollout="{branch["id"]}"]')
    assert f"pos={position}" in page.url
    page.wait_for_selector(f'#token-detail[data-index="{position}"] .alt-row.sampled')
    detail = page.locator("#token-detail").inner_text()
    assert f"id {best['id']} " in detail
    item = studio.get(f"rollouts/{branch['id']}/topk?position={position}")["items"][0]
    logprob = f"{item['token']['teacher_logprob']:.3f}".replace("-", "−")
    assert logprob in detail
    page.get_by_role("tab", name="What if").click()
    page.locator(".wi-parent").wait_for()


def test_what_cannot_be_is_said_beside_the_form(studio: Studio, trained_site: TrainedSite) -> None:
    page = studio.page
    rollout, position = worst(trained_site)
    page.goto(f"{studio.address}/rollout?id={rollout}&pos={position}&tab=what-if")
    page.wait_for_selector(".wi-choices input:checked")
    page.locator("#wi-limit").fill("2048")
    page.locator("#wi-go").click()
    page.get_by_role("alert").get_by_text("max_new_tokens").first.wait_for()
    page.get_by_role("button", name="Try again").wait_for()
    page.locator("#wi-limit").fill("8")
    page.locator("#wi-text").fill(" 7")
    page.locator("#wi-authors").select_option("teacher")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".wi-card[data-author=teacher]")
    assert page.locator(".wi-card .tinted").inner_text().strip().startswith("7")


def test_both_reply_and_a_reply_is_kept(studio: Studio) -> None:
    page = studio.page
    page.goto(f"{studio.address}/playground?run={studio.run_id}")
    page.locator(".pg-example").first.click()
    with page.expect_response(re.compile(r"/api/v1/chat$")) as response:
        page.keyboard.press("Enter")
    page.locator("#pg-status").get_by_text("tokens in").wait_for()
    answer = studio.get(f"questions/{response.value.json()['id']}")
    replies = answer["answer"]["replies"]
    assert [r["author"] for r in replies] == ["student", "teacher"]
    for reply in replies:
        part = page.locator(f".pg-reply[data-author={reply['author']}]")
        assert part.locator(".tinted-token").count() == len(reply["ids"])
        assert f"KL {shown(sum(reply['reverse_kl']))} nats" in part.inner_text()
        at = int(np.argmax(reply["reverse_kl"]))
        part.locator(".tinted").focus()
        for _ in range(at + 1):
            page.keyboard.press("ArrowRight")
        value = f"{reply['reverse_kl'][at]:.3f}"
        assert f"reverse KL {value} nats" in part.locator(".pg-detail").inner_text()
        if reply["reverse_kl"][at] > 0.05:
            kind = part.locator(".tinted-token").nth(at).get_attribute("class")
            assert re.search(r"\bq\d+\b", kind), "it is tinted"
    page.locator(".pg-reply[data-author=student]").get_by_role("button", name="Save").click()
    page.get_by_role("link", name="Saved: open").click()
    page.wait_for_selector('#token-view[data-ready="true"]')
    name = page.locator("#token-view").get_attribute("data-rollout")
    kept = studio.get(f"rollouts/{name}")
    assert (kept["kind"], kept["tokens"]) == ("branch", len(replies[0]["ids"]))
    assert kept["kl_sum"] == pytest.approx(sum(replies[0]["reverse_kl"]), abs=1e-3)
    page.go_back()
    page.wait_for_selector(".pg-reply[data-author=teacher] .tinted-token")
    assert page.locator(".tinted-token").count() == sum(len(r["ids"]) for r in replies)


def test_the_bundled_pair_answers_without_a_run(studio: Studio) -> None:
    page = studio.page
    page.goto(f"{studio.address}/playground?who=student&temperature=0")
    page.locator(".pg-example").first.click()
    page.locator("#pg-send").click()
    page.locator("#pg-status").get_by_text("tokens in").wait_for()
    assert page.locator(".pg-reply").count() == 1
    assert page.get_by_role("button", name="Save").is_hidden()
    page.wait_for_selector(".request-state[data-state=ready]")
    assert "said=" in page.url


def test_viewers_see_why_they_cannot_ask(studio: Studio, trained_site: TrainedSite) -> None:
    page = studio.page
    page.context.clear_cookies()
    page.request.get(f"{studio.address}/?token={VIEW}")
    page.goto(f"{studio.address}/playground?run={studio.run_id}")
    page.get_by_text("This link is read-only").wait_for()
    assert page.locator("#pg-send").is_disabled() and page.locator("#pg-message").is_disabled()
    rollout, position = worst(trained_site)
    page.goto(f"{studio.address}/rollout?id={rollout}&pos={position}&tab=what-if")
    page.get_by_text("This link is read-only").wait_for()
    assert page.locator("#wi-go").is_disabled()


def busy_at_first(page: Any) -> list[dict[str, Any]]:
    """Answers the first request as where a run has the GPU; → the bodies of all requests."""
    bodies: list[dict[str, Any]] = []

    def ask(route: Any) -> None:
        bodies.append(route.request.post_data_json)
        route.continue_()

    def look(route: Any) -> None:
        if len(bodies) > 1:
            route.continue_()
            return
        text = "device: the GPU is busy (cuda:0: run-a); wait for its end, or use the processor"
        failed = {"state": "failed", "phase": "", "answer": None, "error_text": text}
        route.fulfill(json=failed | {"error_kind": "device busy", "hint": "Wait."})

    page.route(re.compile("/api/v1/(what-if|chat)$"), ask)
    page.route(re.compile("/api/v1/questions/[^/]+$"), look)
    return bodies


def test_where_the_gpu_is_busy_the_processor_can_be_chosen(
    studio: Studio, trained_site: TrainedSite
) -> None:
    page = studio.page
    rollout, _ = worst(trained_site)
    bodies = busy_at_first(page)
    page.goto(f"{studio.address}/rollout?id={rollout}")
    page.wait_for_selector('#token-view[data-ready="true"]')
    page.keyboard.press("n")
    page.get_by_role("tab", name="What if").click()
    page.wait_for_selector(".wi-choice:has(input:checked)")
    page.locator("#wi-limit").fill("4")
    page.locator("#wi-go").click()
    page.get_by_text("the GPU is busy (cuda:0: run-a)").wait_for()
    page.get_by_role("button", name="Answer on the processor").click()
    page.wait_for_selector(".wi-card[data-author=student]")
    assert [body["device"] for body in bodies] == ["auto", "cpu"]

    bodies.clear()
    page.goto(f"{studio.address}/playground?run={studio.run_id}&limit=4")
    page.locator("#pg-message").fill("1 + 1 =")
    page.keyboard.press("Enter")
    page.get_by_text("the GPU is busy").wait_for()
    page.get_by_role("button", name="Answer on the processor").click()
    page.get_by_text(re.compile(r"tokens in .* s")).wait_for()
    assert [body["device"] for body in bodies] == ["auto", "cpu"]
    page.reload()
    page.locator("#pg-message").fill("and 4?")
    page.keyboard.press("Enter")
    page.get_by_text(re.compile(r"tokens in .* s")).wait_for()
    first, second, other = (body["session"] for body in bodies)
    assert first == second != other, "each page that is open has a name of its own"


def test_a_queued_run_says_what_it_waits_for(studio: Studio) -> None:
    page = studio.page

    def queued(route: Any) -> None:
        run = route.fetch().json()
        route.fulfill(json=run | {"status": "queued", "waits_for": {"cuda:0": studio.run_id}})

    page.route(re.compile(f"/api/v1/runs/{studio.run_id}$"), queued)
    page.goto(f"{studio.address}/run?id={studio.run_id}")
    line = page.locator("#waits-for")
    line.wait_for()
    assert line.inner_text() == f"waiting for the device, cuda:0 in use by {studio.run_id}"
    assert line.get_by_role("link").get_attribute("href").endswith(f"run?id={studio.run_id}")
