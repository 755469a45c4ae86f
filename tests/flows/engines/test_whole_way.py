"""The whole product on PostgreSQL: a studio used from its pages and by command."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.engine import open_database
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_run, read_runs
from tests.flows.test_journey import find, launch, opened, stop, watch
from tests.support.databases import matrix
from tests.support.trained_site import server

pytestmark = [pytest.mark.engines, pytest.mark.browser]
Opd = Callable[..., tuple[int, str, str]]
READY = '#token-view[data-ready="true"]'


class Studio:
    """A page at a server with its supervisor; commands that share data directory and database."""

    def __init__(self, page: Any, address: str, engine: Any, opd: Opd) -> None:
        self.page, self.address, self.engine = page, address, engine
        self._opd = opd

    def opd(self, *arguments: str) -> str:
        code, out, err = self._opd(*arguments)
        assert code == 0, err
        return out

    def visit(self, path: str) -> Any:
        self.page.goto(f"{self.address}/{path}")
        return self.page

    def run(self, run_id: str) -> dict[str, Any]:
        return read_run(self.engine, run_id)


@pytest.fixture
def studio(
    chromium: Any, tmp_path: Path, opd: Opd, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Studio]:
    matrix.needed()
    database = matrix.server()
    database.sql("CREATE DATABASE whole_way TEMPLATE template0")
    url = database.url("whole_way")
    monkeypatch.setenv("OPD_DATABASE_URL", url)
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    with server(tmp_path / "data", "--database-url", url) as link:
        engine = open_database(url)
        yield Studio(page, opened(page, link), engine, opd)
        engine.dispose()
        context.close()
    assert not (tmp_path / "data" / "studio.db").exists()
    database.sql("DROP DATABASE whole_way WITH (FORCE)")
    assert faults == []


def test_from_an_empty_database_to_a_run_that_was_resumed(studio: Studio, tmp_path: Path) -> None:
    page = studio.page
    launch(page)
    watch(page)
    find(page)
    stop(page, studio.address)
    [run] = read_runs(studio.engine)["items"]
    run_id = str(run["id"])
    goes_on_otherwise(studio, run_id)
    resumed_and_cancelled(studio, run_id)
    exported(studio, run_id, tmp_path)


def goes_on_otherwise(studio: Studio, run_id: str) -> None:
    """The model process writes continuations, which are stored beside the rollout."""
    item = read_rollouts(studio.engine, run_id, sort="-kl_max", limit=1)["items"][0]
    page = studio.visit(f"rollout?id={item['id']}")
    page.wait_for_selector(READY)
    page.keyboard.press("n")
    page.get_by_role("tab", name="What if").click()
    page.wait_for_selector(".wi-choice:has(input:checked)")
    page.locator("#wi-go").click()
    page.wait_for_selector(".wi-card[data-author=student]")
    assert read_rollouts(studio.engine, run_id, kind="branch")["total"] == 2


def resumed_and_cancelled(studio: Studio, run_id: str) -> None:
    before = studio.run(run_id)
    page = studio.visit(f"run?id={run_id}")
    page.locator("#resume").click()
    page.locator(".status.running").wait_for()
    page.wait_for_function(
        f"fetch('api/v1/runs/{run_id}').then(r => r.json()).then(r => r.step > {before['step']})"
    )
    studio.opd("cancel", run_id)
    page.locator(".status.cancelled").wait_for()
    run = studio.run(run_id)
    assert run["attempt"] == 2 and run["checkpoints"][-1]["step"] == run["step"]


def exported(studio: Studio, run_id: str, folder: Path) -> None:
    file = folder / "rollouts.jsonl"
    studio.opd("export", run_id, "--out", str(file))
    rows = len(file.read_text().splitlines())
    assert read_rollouts(studio.engine, run_id)["total"] == rows > 0
