"""Files that a run's page gives: asked for, followed over a reload, downloaded, removed."""

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.worker.files import process
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from opd.training.checkpoint_manifest import folder_of, make
from opd.types import CheckpointEvent
from storage.data_dir import DataDir
from storage.queue import jobs, requests
from storage.write.records import RunWriter
from tests.support.api_client import stored_run
from tests.support.stored_runs import OWNER

pytestmark = pytest.mark.browser


def data_dir(site: Any) -> DataDir:
    return DataDir(site.folder)


@pytest.fixture(autouse=True)
def _no_files_left(site: Any) -> Iterator[None]:
    yield
    for one in requests.read_file_requests(site.engine):
        requests.fail(site.engine, one["id"], "the test is over")
        requests.remove(site.engine, one["id"])


@pytest.fixture
def run_id(site: Any) -> str:
    """With a checkpoint of 5,000 bytes."""
    engine = site.engine
    made = jobs.create_run(engine, parse({"name": "to take along"}))
    attempt = jobs.claim(engine, made, "cpu", OWNER)
    assert attempt is not None
    folder = folder_of(data_dir(site).run(made).checkpoints, 3)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"w" * 5000)
    (folder / "optimizer.safetensors").write_bytes(b"o" * 9000)
    event = CheckpointEvent(3, str(folder), make(folder))
    RunWriter(engine, made, attempt).checkpoint(event)
    jobs.finish(engine, made, attempt, "finished")
    return made


def make_files(site: Any, **makers: Any) -> None:
    """What the file process does; the site has none."""
    process.serve(site.engine, data_dir(site), 0.1, {**process.MAKERS, **makers})


def test_a_report_is_asked_for_by_keyboard_and_downloaded_after_a_reload(
    open_page: Callable[[str], Any], site: Any
) -> None:
    run_id = stored_run(site.engine)
    page = open_page(f"/run?id={run_id}")
    page.locator("#export > summary").focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Report (HTML)").focus()
    page.keyboard.press("Enter")
    line = page.locator('.file-line[data-state="queued"]')
    line.wait_for()
    assert "no supervisor is running" in line.inner_text()
    assert not page.get_by_role("button", name="Report (HTML)").is_visible(), "the menu is closed"
    page.reload()
    line.wait_for()
    assert f"{run_id}-report.html" in line.inner_text()
    make_files(site)
    download = page.get_by_role("link", name="Download")
    with page.expect_download() as waiting:
        download.click()
    assert waiting.value.suggested_filename == f"{run_id}-report.html"
    assert Path(waiting.value.path()).read_text().startswith("<!doctype html>")
    page.get_by_role("button", name=f"Remove {run_id}-report.html").click()
    page.wait_for_selector(".file-line", state="detached")
    assert list(data_dir(site).downloads.iterdir()) == []


def test_a_failure_is_told_and_a_request_is_cancelled(
    open_page: Callable[[str], Any], site: Any
) -> None:
    run_id = stored_run(site.engine)
    page = open_page(f"/run?id={run_id}")
    for label in ("JSON lines", "Report (HTML)"):
        page.locator("#export > summary").click()
        page.get_by_role("button", name=label).click()
    page.wait_for_function("document.querySelectorAll('.file-line').length === 2")
    page.get_by_role("button", name=f"Cancel {run_id}-report.html").click()
    page.wait_for_function("document.querySelectorAll('.file-line').length === 1")

    def fail(*_: Any) -> None:
        raise UserError("the disk <b>is</b> full", where="downloads", kind=ErrorKind.DISK_FULL)

    make_files(site, export=fail)
    failed = page.locator('.file-line[data-state="failed"]')
    failed.wait_for()
    assert "the disk <b>is</b> full" in failed.inner_text()
    assert "Free space" in failed.inner_text()


def test_the_size_of_the_model_is_said_before(
    open_page: Callable[[str], Any], site: Any, run_id: str
) -> None:
    page = open_page(f"/run?id={run_id}")
    page.locator("#export > summary").click()
    save = page.get_by_role("button", name="Model (tar, 10.2 kB)")
    save.wait_for()
    assert save.get_attribute("title") == "The checkpoint after step 3"
    assert not page.get_by_role("button", name="Model, adapter merged (tar)").is_visible()


def test_the_tables_hold_what_the_filters_leave(open_page: Callable[[str], Any], site: Any) -> None:
    run_id = stored_run(site.engine)
    page = open_page(f"/rollouts?run={run_id}&step=2&correct=true")
    page.wait_for_selector("table.rollouts tbody tr")
    with page.expect_download() as waiting:
        page.get_by_role("link", name="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text())))
    assert [(row["step"], row["right"]) for row in rows] == [("2", "True")]
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Parquet").click()
    assert waiting.value.suggested_filename == f"{run_id}-rollouts.parquet"
