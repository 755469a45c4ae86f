"""Models and data are chosen from folders, runs and uploads; data files are uploaded."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect
from sqlalchemy import insert

from app.sources.roots import SourceOptions
from opd.config.run import parse
from storage import schema
from storage.engine import begin
from storage.queue import jobs
from tests.app.sources.test_folders import STUDENT
from tests.app.sources.test_upload_check import GOOD
from tests.browser.test_accessibility import serious
from tests.conftest import opening
from tests.support.browser_server import TOKEN, loopback_server
from tests.support.databases.matrix import new_database

pytestmark = pytest.mark.browser
CANARY = "<img src=x onerror='window.__canary = 1'>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two roots, and a data directory with runs that have checkpoints."""
    top = tmp_path_factory.mktemp("picker").resolve()
    models, rows = top / "models", top / "rows"
    (models / "team" / "old").mkdir(parents=True)
    shutil.copytree(STUDENT, models / "mine")
    shutil.copytree(STUDENT, models / "broken")
    (models / "broken" / "model.safetensors").write_bytes(b"cut")
    shutil.copytree(STUDENT, models / "team" / CANARY.replace("/", ""))
    (models / "elsewhere").symlink_to("/etc")
    (models / "cut.gguf").write_bytes(b"GGUF")
    rows.mkdir()
    for number in range(60):
        (rows / f"part-{number:02}.jsonl").write_bytes(GOOD)
    engine = new_database(top / "data")
    for name, steps in ((CANARY, (5, 10)), ("arithmetic, second try", (20,))):
        run = jobs.create_run(engine, parse({"name": name}))
        with begin(engine) as connection:
            for step in steps:
                row = {"run_id": run, "step": step, "path": "x", "manifest": {}, "created_at": 1.0}
                connection.execute(insert(schema.checkpoint).values(row))
    engine.dispose()
    return top


@pytest.fixture(scope="module")
def context(chromium: Any, folder: Path) -> Iterator[tuple[Any, str]]:
    """A browser that holds the cookie of a server with these roots, and its address."""
    sources = SourceOptions((folder / "models",), (folder / "rows",), 1_000_000)
    engine = new_database(folder / "data")
    with loopback_server(engine, folder / "data", sources=sources) as address:
        made = chromium.new_context(viewport={"width": 1280, "height": 900})
        made.request.get(f"{address}?token={TOKEN}")
        yield made, address.rstrip("/")
        made.close()
    engine.dispose()


@pytest.fixture
def new(context: tuple[Any, str]) -> Iterator[Any]:
    with opening(*context) as visit:
        page = visit("/new")
        page.wait_for_selector("#start-run:not([disabled])")
        yield page


@pytest.fixture
def pick(new: Any) -> Callable[..., Any]:
    """Opens the picker of a field, at a place."""

    def opened(field: str, tab: str = "") -> Any:
        new.get_by_role("button", name=f"Choose {field}", exact=True).click()
        dialog = new.get_by_role("dialog")
        if tab:
            dialog.get_by_role("group", name="Places").get_by_role("button", name=tab).click()
        return dialog

    return opened


def entry(dialog: Any, name: str) -> Any:
    return dialog.locator(".choice").filter(has=dialog.page.locator("b", has_text=name))


def test_a_model_is_chosen_from_a_folder(new: Any, pick: Any, folder: Path) -> None:
    dialog = pick("Student")
    expect(entry(dialog, "mine/")).to_contain_text("qwen3")
    expect(entry(dialog, "mine/")).to_contain_text("4 layers × 128")
    expect(entry(dialog, "broken/")).to_contain_text("model.safetensors")
    expect(dialog).to_contain_text("1 entry is not listed")
    expect(entry(dialog, "cut.gguf")).to_have_attribute("aria-disabled", "true")
    expect(dialog.locator("[aria-disabled]")).to_have_count(1)
    entry(dialog, "team/").click()
    expect(entry(dialog, "old/")).to_contain_text("folder")
    expect(entry(dialog, "img src")).to_have_count(1)
    dialog.get_by_role("navigation").get_by_role("button").click()
    entry(dialog, "mine/").click()
    expect(new.get_by_role("dialog")).to_have_count(0)
    expect(new.locator("#field-student-model")).to_have_value(str(folder / "models" / "mine"))
    expect(new.locator("#field-student-model")).to_be_focused()
    expect(new.locator("#yaml")).to_have_value(re.compile("models/mine"))
    assert new.evaluate("window.__canary") is None


def test_by_keyboard_alone(new: Any, folder: Path) -> None:
    new.get_by_role("button", name="Choose Prompts", exact=True).focus()
    new.keyboard.press("Enter")
    dialog = new.get_by_role("dialog")
    expect(entry(dialog, "part-00.jsonl")).to_be_visible()
    expect(dialog.get_by_label("Search in this place")).to_be_focused()
    new.keyboard.type("PART-59")
    expect(dialog.locator(".choice")).to_have_count(1)
    new.keyboard.press("Tab")
    new.keyboard.press("Enter")
    expected = str(folder / "rows" / "part-59.jsonl")
    expect(new.locator("#field-prompts-source")).to_have_value(expected)
    new.get_by_role("button", name="Choose Prompts", exact=True).press("Enter")
    expect(new.get_by_role("dialog")).to_be_visible()
    new.keyboard.press("Escape")
    expect(new.get_by_role("dialog")).to_have_count(0)


def test_a_large_folder_comes_in_pages(pick: Any) -> None:
    dialog = pick("Prompts", "rows")
    expect(dialog.locator(".choice")).to_have_count(50)
    dialog.get_by_role("button", name="Show more (10)").click()
    expect(dialog.locator(".choice")).to_have_count(60)
    expect(entry(dialog, "part-50.jsonl")).to_be_focused()
    dialog.get_by_role("button", name="Use this folder").click()


def test_runs_checkpoints_and_bundled_ones(new: Any, pick: Any) -> None:
    dialog = pick("Teacher", "Runs")
    dialog.get_by_role("button", name="Checkpoints of").click()
    entry(dialog, "Step 5").click()
    expect(new.locator("#field-teacher-model")).to_have_value(re.compile(r"^run-[a-z0-9-]+@5$"))
    dialog = pick("Teacher", "Bundled")
    entry(dialog, "bundled/teacher").click()
    expect(new.locator("#field-teacher-model")).to_have_value("bundled/teacher")
    dialog = pick("Teacher", "Hub cache")
    expect(dialog.locator(".choices")).to_be_visible()
    assert new.evaluate("window.__canary") is None


def test_parts_of_the_form_have_the_picker_too(new: Any) -> None:
    new.click("details.more summary")
    new.click("#field-evaluation-suites-add")
    suites = new.locator('[data-field="evaluation.suites"]')
    suites.get_by_role("button", name="Choose Source").click()
    entry(new.get_by_role("dialog"), "part-07.jsonl").click()
    expect(suites.locator('[data-field="source"] input')).to_have_value(re.compile("part-07"))
    new.click("#field-teacher-routes-add")
    routes = new.locator('[data-field="teacher.routes"]')
    button = routes.get_by_role("button", name="Choose Model")
    expect(button).to_be_visible()
    routes.locator('[data-field="kind"] select').select_option("remote")
    expect(button).to_have_count(0)


def test_a_file_is_uploaded_chosen_and_deleted(new: Any, pick: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD * 3)
    dialog = pick("Prompts", "Uploads")
    dialog.locator("#pick-upload").set_input_files(tmp_path / "rows.jsonl")
    field = new.locator("#field-prompts-source")
    expect(field).to_have_value(re.compile(r"/uploads/rows-[0-9a-f]{16}\.jsonl$"))
    note = new.locator('[data-field="prompts.source"] .pick-note')
    expect(note).to_have_text("rows.jsonl uploaded: 3 rows, read as text.")
    expect(new.locator("#start-run")).to_be_enabled()
    dialog = pick("Prompts", "Uploads")
    dialog.get_by_role("button", name="Delete of rows.jsonl").click()
    dialog.get_by_role("button", name="Delete for good").click()
    expect(dialog).to_contain_text("Nothing has been uploaded yet")


def test_what_another_place_listed_takes_no_click(new: Any, pick: Any) -> None:
    held: list[Any] = []
    dialog = pick("Student")
    expect(entry(dialog, "mine/")).to_be_visible()
    new.route("**/api/v1/sources/model/bundled?*", lambda route: held.append(route))
    dialog.get_by_role("button", name="Bundled").click()
    with pytest.raises(PlaywrightTimeout):
        entry(dialog, "mine/").click(timeout=500)
    held.pop().continue_()
    entry(dialog, "student").first.click()
    expect(new.locator("#field-student-model")).to_have_value(re.compile("student"))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_dialog_fits_and_has_no_serious_finding(
    new: Any, pick: Any, width: int, scheme: str
) -> None:
    new.set_viewport_size({"width": width, "height": 800})
    new.emulate_media(color_scheme=scheme)
    for field, tab in (("Student", "models"), ("Student", "Runs"), ("Prompts", "Uploads")):
        dialog = pick(field, tab)
        expect(dialog.locator(".pick-count")).to_contain_text("entr")
        assert serious(new, "dialog") == []
        wide = "d => [d, ...d.querySelectorAll('*')].filter(e => e.scrollWidth > innerWidth).length"
        assert dialog.evaluate(wide) == 0
        new.keyboard.press("Escape")
    box = new.get_by_role("button", name="Choose Student", exact=True).bounding_box()
    assert box["x"] + box["width"] <= width


DROP = """([name, text]) => {
    const data = new DataTransfer();
    data.items.add(new File([text], name));
    const row = document.querySelector('[data-field="prompts.source"]');
    row.dispatchEvent(
        new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: data }));
}"""


def test_what_is_not_data_is_refused_beside_the_field(
    context: tuple[Any, str], folder: Path
) -> None:
    """On a page of its own: the browser writes of each refusal on the console."""
    page = context[0].new_page()
    page.goto(f"{context[1]}/new")
    page.wait_for_selector("#start-run:not([disabled])")
    before = page.input_value("#field-prompts-source")
    note = page.locator('[data-field="prompts.source"] .pick-note')
    for name, text, message in (
        ("rows.exe", "x", "must end as a data file does"),
        ("large.jsonl", "x" * 1_200_000, "has 1.20 MB; the limit is 1.00 MB"),
        ("broken.jsonl", GOOD.decode() + "{\n", "broken.jsonl:2: not valid JSON"),
        ("empty.csv", "", "holds no prompts"),
        (f"{CANARY}.jsonl".replace("/", ""), "x", "must be a name without"),
    ):
        page.evaluate(DROP, [name, text])
        expect(note).to_contain_text(message)
    assert page.input_value("#field-prompts-source") == before
    page.evaluate(DROP, ["good.jsonl", GOOD.decode()])
    expect(page.locator("#field-prompts-source")).to_have_value(re.compile("/good-"))
    assert page.evaluate("window.__canary") is None
    page.close()
    assert [p.name[:5] for p in (folder / "data" / "uploads").iterdir()] == ["good-"]
