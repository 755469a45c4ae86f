"""The page of a new run: form and YAML follow each other, and parts of fields have forms."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from opd.config.drafts.yaml_text import load_yaml
from opd.config.run import parse
from tests.app.api.test_configs import TEN

pytestmark = pytest.mark.browser
Visit = Callable[[str], Any]
CANARY = "<img src=x onerror='window.__canary = 1'>"


@pytest.fixture
def new(open_page: Visit) -> Any:
    page = open_page("/new")
    page.wait_for_selector("#start-run:not([disabled])")
    return page


def problems(page: Any) -> Any:
    return page.locator("#yaml-problems > li")


def test_the_form_follows_the_yaml_and_the_yaml_the_form(new: Any) -> None:
    text = "# mine\nname: typed\nsteps: 5 # few\nevaluation:\n  suites: {again: bundled}\n"
    new.fill("#yaml", text)
    expect(new.locator("#field-steps")).to_have_value("5")
    expect(new.locator("#field-name")).to_have_value("typed")
    expect(new.locator("#start-run")).to_be_enabled()
    assert new.input_value("#yaml") == text, "comments stay as long as the YAML is edited"
    new.fill("#field-steps", "6")
    expect(new.locator("#yaml-note")).to_contain_text("Its comments are gone")
    written = load_yaml(new.input_value("#yaml"))
    assert parse(written) == parse({**load_yaml(text), "steps": 6}), "suites are not lost"
    new.get_by_role("button", name="Bring my text back").click()
    expect(new.locator("#field-steps")).to_have_value("5")
    assert new.input_value("#yaml") == text


def test_an_answer_on_other_settings_comes_too_late(new: Any) -> None:
    """Of two checks the first is answered only when the YAML has been edited, the second never."""
    held: list[Any] = []
    new.route("**/api/v1/config/check", lambda route: held.append(route))
    with new.expect_request("**/api/v1/config/check"):
        new.fill("#field-steps", "5")
    with new.expect_response("**/api/v1/config/check"):
        new.fill("#yaml", "steps: 9")
        held[0].continue_()
    new.evaluate("() => new Promise((done) => setTimeout(done))")
    expect(new.locator("#start-run")).to_be_disabled()
    expect(new.locator("#field-steps")).to_have_value("5")
    assert new.input_value("#yaml") == "steps: 9"
    new.unroute_all(behavior="ignoreErrors")


def test_ten_mistakes_stand_at_their_lines_and_beside_their_fields(new: Any) -> None:
    new.fill("#yaml", TEN)
    expect(problems(new)).to_have_count(10)
    assert new.locator(".yaml-lines > .bad").count() == 10
    expect(new.locator("#start-run")).to_be_disabled()
    expect(new.locator('[data-field="steps"] .bad-text')).to_contain_text("(got 0)")
    expect(new.locator("#field-steps")).to_have_value("0")
    problems(new).filter(has_text="hot").get_by_role("button").focus()
    new.keyboard.press("Enter")
    selected = """() => {
        const { value, selectionStart, selectionEnd } = document.activeElement;
        return value.slice(selectionStart, selectionEnd);
    }"""
    assert new.evaluate(selected) == "  temperature: hot"
    inside = new.locator('[data-field="evaluation.suites"] [data-field="count"] .bad-text')
    expect(inside).to_contain_text("(got 0)")


def test_yaml_that_cannot_be_read_blocks_the_form_and_loses_nothing(new: Any) -> None:
    new.fill("#yaml", "steps: [\nsteps: 2")
    expect(problems(new)).to_contain_text("not valid YAML at column 1")
    expect(problems(new)).to_contain_text("line 2")
    expect(new.locator(".form-block")).to_be_visible()
    assert new.locator("#field-steps").evaluate("e => e.closest('[inert]') !== null")
    new.get_by_role("button", name="Discard the YAML and use the form").click()
    expect(new.locator("#start-run")).to_be_enabled()
    expect(problems(new)).to_have_count(0)
    new.get_by_role("button", name="Bring my text back").click()
    assert new.input_value("#yaml") == "steps: [\nsteps: 2"
    new.fill("#yaml", f'steps: 2\n"{CANARY}": 1\nsteps: 3\n')
    expect(problems(new)).to_contain_text("steps is set twice, first on line 1")
    new.fill("#yaml", f'"{CANARY}": 1\n')
    expect(problems(new)).to_contain_text(CANARY)
    assert new.evaluate("window.__canary") is None


def test_files_are_opened_or_refused_by_name(new: Any, tmp_path: Path) -> None:
    before = new.input_value("#yaml")
    for name, content, said in (
        ("model.safetensors", b"\x00\x01\xff", "model.safetensors is not a text file"),
        ("latin.yaml", b"name: \xe9\n", "latin.yaml is not a text file"),
        ("large.yaml", b"a: 1\n" * 20_000, "large.yaml has 100,000 bytes"),
    ):
        (tmp_path / name).write_bytes(content)
        new.set_input_files("#yaml-file", tmp_path / name)
        expect(new.locator("#yaml-note")).to_contain_text(said)
        assert new.input_value("#yaml") == before
    drop = """text => {
        const data = new DataTransfer();
        data.items.add(new File([text], "dropped.yaml"));
        document.querySelector("#yaml").dispatchEvent(
            new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
    }"""
    new.evaluate(drop, "# a file\nname: dropped\nsteps: 4\n")
    expect(new.locator("#field-steps")).to_have_value("4")
    expect(new.locator("#recipe")).to_have_value("")
    new.fill("#field-steps", "9")
    expect(new.locator(".difference")).to_contain_text("Changes from the file")
    assert new.locator(".difference tr").count() == 1


def test_the_settings_of_a_run_are_opened(new: Any, site: Any) -> None:
    new.click("#yaml-run")
    dialog = new.get_by_role("dialog")
    dialog.get_by_label("Search runs").fill("no such run")
    expect(dialog).to_contain_text("None matches")
    dialog.get_by_label("Search runs").fill("")
    dialog.locator(f'a[href*="{site.run_id}"]').click()
    new.wait_for_url(f"**/new?from={site.run_id}")
    expect(new.locator("h1").last).to_contain_text("New run from")


def test_suites_and_routes_have_forms_of_their_own(new: Any) -> None:
    new.click("details.more summary")
    new.click("#field-evaluation-suites-add")
    new.keyboard.type("chat")
    new.keyboard.press("Tab")
    suites = new.locator('[data-field="evaluation.suites"]')
    suites.get_by_label("Number of", exact=False)
    suites.locator('[data-field="count"] input').fill("7")
    expect(new.locator("#yaml")).to_have_value(re.compile(r"suites:\n    chat:\n      count: 7"))
    suites.locator('[data-field="count"] input').fill("0")
    expect(suites.locator('[data-field="count"] .bad-text')).to_contain_text("(got 0)")
    suites.locator('[data-field="count"] input').fill("7")
    new.click("#field-evaluation-suites-add")
    name = suites.get_by_label("Name of this suite").last
    name.fill("chat")
    name.press("Tab")
    expect(suites).to_contain_text("chat is already the name of another")
    suites.get_by_role("button", name="Remove").last.click()
    suites.get_by_role("button", name="Remove").last.click()
    expect(new.locator("#yaml")).not_to_have_value(re.compile("suites"))
    new.click("#field-teacher-routes-add")
    routes = new.locator('[data-field="teacher.routes"]')
    routes.locator('[data-field="kind"] select').select_option("remote")
    expect(routes.locator('[data-field="url"] .bad-text')).to_contain_text("needs its server")
    assert routes.locator('[data-field="offload"]').is_hidden()


def test_lists_and_json_say_their_form(new: Any) -> None:
    new.click("details.more summary")
    row = lambda path: new.locator(f'[data-field="{path}"]')  # noqa: E731
    expect(row("sampling.stop_ids")).to_contain_text("Separated by commas, such as 151645, 151643.")
    expect(row("prompts.template_args")).to_contain_text(
        'JSON, such as {"reasoning_effort":"low"}.'
    )
    row("prompts.template_args").locator("textarea").fill('{"a": ')
    expect(row("prompts.template_args").locator(".bad-text")).to_contain_text("not valid JSON")
    row("prompts.template_args").locator("textarea").fill('{"messages": 1}')
    expect(row("prompts.template_args").locator(".bad-text")).to_contain_text("messages")
    row("sampling.stop_ids").locator("input").fill("1, -2")
    expect(row("sampling.stop_ids").locator(".bad-text")).to_contain_text("1: Input should be")


@pytest.fixture
def row(new: Any) -> Callable[[str], Any]:
    """The row of a field, below "More settings" as above."""
    new.click("details.more summary")
    return lambda path: new.locator(f'[data-field="{path}"]').first


def test_a_vllm_server_has_fields_of_its_own(new: Any, row: Callable[[str], Any]) -> None:
    engine = row("sampling.engine").locator("select")
    rows = {path: row(f"sampling.{path}") for path in ("url", "key_variable", "lag")}
    for field in rows.values():
        expect(field).to_be_hidden()
    engine.select_option("vllm")
    rows["lag"].locator("input").fill("1")
    rows["url"].locator("input").fill("localhost:8000")
    expect(rows["url"].locator(".bad-text")).to_contain_text("must be http://HOST:PORT")
    assert load_yaml(new.input_value("#yaml"))["sampling"]["url"] == "localhost:8000"
    rows["url"].locator("input").fill("http://localhost:8000")
    rows["key_variable"].locator("input").fill("KEY")
    expect(new.locator("#start-run")).to_be_enabled()
    new.wait_for_function("document.querySelector('#yaml').value.includes('key_variable: KEY')")
    sampling = load_yaml(new.input_value("#yaml"))["sampling"]
    url = "http://localhost:8000"
    server = {"engine": "vllm", "lag": 1, "url": url, "key_variable": "KEY"}
    assert sampling.items() >= server.items()
    new.fill("#yaml", "sampling: {engine: vllm, lag: 1}")
    expect(rows["url"].locator("input")).to_have_value("")
    expect(rows["lag"].locator("input")).to_have_value("1")


def test_what_another_choice_left_behind_is_shown_until_it_is_corrected(
    new: Any, row: Callable[[str], Any]
) -> None:
    new.fill("#yaml", "sampling: {engine: vllm, url: 'unix:/tmp/vllm'}")
    expect(row("sampling.url")).to_be_visible()
    row("sampling.engine").locator("select").select_option("local")
    expect(row("sampling.url").locator(".bad-text")).to_contain_text("only engine vllm has one")
    row("sampling.url").locator("input").fill("")
    expect(new.locator("#start-run")).to_be_enabled()
    expect(row("sampling.url")).to_be_hidden()
    new.fill("#yaml", "teacher: {route_by: t, routes: {a: {kind: remote, url: 'http://a:1/v1'}}}")
    routes = row("teacher.routes")
    routes.locator('[data-field="kind"] select').select_option("model")
    left = routes.locator('[data-field="url"]')
    expect(left.locator(".bad-text")).to_contain_text("only a remote teacher has one")
    left.locator("input").fill("")
    expect(left).to_be_hidden()


def test_teachers_behind_servers_and_the_cap_of_the_importance_ratio(
    new: Any, row: Callable[[str], Any]
) -> None:
    row("teacher.kind").locator("select").select_option("remote")
    expect(row("teacher.engine")).to_be_hidden()
    row("teacher.url").locator("input").fill("http://a:8000/v1, b:8000")
    expect(row("teacher.url").locator(".bad-text")).to_contain_text("several with commas")
    row("teacher.url").locator("input").fill("http://a:8000/v1, http://b:8000/v1")
    expect(row("objective.name").locator(".bad-text")).to_contain_text("reverse_kl needs all")
    row("teacher.server").locator("select").select_option("sglang")
    row("objective.name").locator("select").select_option("policy_gradient")
    row("objective.ratio_cap").locator("input").fill("0.5")
    expect(row("objective.ratio_cap").locator(".bad-text")).to_contain_text("(got 0.5)")
    row("objective.ratio_cap").locator("input").fill("2")
    expect(new.locator("#start-run")).to_be_enabled()
    new.wait_for_function("document.querySelector('#yaml').value.includes('ratio_cap: 2')")
    written = load_yaml(new.input_value("#yaml"))
    assert written["teacher"]["url"] == "http://a:8000/v1, http://b:8000/v1"
    assert written["teacher"]["server"] == "sglang"


def test_several_devices_and_sharding_say_what_does_not_go_together(
    new: Any, row: Callable[[str], Any]
) -> None:
    row("devices").locator("input").fill("2")
    row("sharding").locator("select").select_option("full")
    expect(row("sharding")).to_contain_text("Each holds a part of every layer")
    row("teacher.engine").locator("select").select_option("vllm")
    expect(row("devices").locator(".bad-text")).to_contain_text(
        "teacher.engine vllm needs a single"
    )
    row("teacher.engine").locator("select").select_option("local")
    new.wait_for_function("document.querySelector('#yaml').value.includes('sharding: full')")
    expect(new.locator("#start-run")).to_be_enabled()
    assert load_yaml(new.input_value("#yaml"))["devices"] == 2
