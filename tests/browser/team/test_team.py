"""Several people, hosts and servers on the pages. Two real servers share one database."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import Engine, update

from app.worker.owners.place import boot_id
from opd.config.run import parse
from storage.engine import DatabaseTime, begin, open_database
from storage.queue import jobs
from storage.queue.hosts import tell_host
from storage.queue.jobs import Owner
from storage.read.runs import read_run
from storage.schema import host
from tests.browser.test_accessibility import FAULTS, serious
from tests.browser.test_small_screens import PHONE
from tests.support.browser_server import loopback_server

pytestmark = pytest.mark.browser
NAMED = {"anna": "anna-" + "a" * 20, "ben": "ben-" + "b" * 20}
GPUS = [{"slot": f"cuda:{i}", "name": "NVIDIA H100", "memory": 80e9} for i in range(2)]


class Team:
    """Anna's browser at one server, ben's at another, both on one database."""

    def __init__(self, chromium: Any, engine: Engine, addresses: list[str]) -> None:
        self.engine = engine
        self.addresses = dict(zip(NAMED, addresses, strict=True))
        self.contexts = {}
        for name, address in self.addresses.items():
            self.contexts[name] = chromium.new_context(viewport={"width": 1280, "height": 800})
            self.contexts[name].request.get(f"{address}?token={NAMED[name]}")

    def page(self, name: str, path: str) -> Any:
        page = self.contexts[name].new_page()
        page.goto(f"{self.addresses[name]}{path}")
        return page

    def run(self, run_id: str) -> dict[str, Any]:
        return read_run(self.engine, run_id)

    def running(self, slot: str, by: str, machine: tuple[str, str] = ("boot-2", "node-2")) -> str:
        run_id = jobs.create_run(self.engine, parse({"name": f"on {slot}"}), started_by=by)
        owner = Owner(4711, 12.5, machine[0], f"{machine[1]} 42 dir")
        assert jobs.claim(self.engine, run_id, slot, owner) is not None
        return run_id


@pytest.fixture(scope="module")
def team(chromium: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    url = f"sqlite:///{folder / 'shared.db'}"
    with ExitStack() as stack:
        addresses = []
        for name in NAMED:
            (folder / name).mkdir()
            engine = open_database(url)
            stack.callback(engine.dispose)
            server = loopback_server(engine, Path(folder / name), named_tokens=NAMED)
            addresses.append(stack.enter_context(server))
        yield Team(chromium, engine, addresses)


def test_of_two_people_at_two_servers_the_second_keeps_the_typed_text(team: Team) -> None:
    run_id = jobs.create_run(team.engine, parse({"name": "shared"}), started_by="anna")
    anna, ben = team.page("anna", f"run?id={run_id}"), team.page("ben", f"run?id={run_id}")
    for page in (anna, ben):
        expect(page.locator("#people")).to_have_text("Started by anna.")
        page.get_by_role("group").get_by_label("More actions").click()
        page.get_by_role("button", name="Edit name, tags, notes").click()
    ben.get_by_label("Notes", exact=True).fill("what ben typed")
    anna.get_by_label("Notes", exact=True).fill("what anna wrote")
    anna.get_by_role("button", name="Save", exact=True).click()
    expect(anna.locator("#notes")).to_have_text("what anna wrote")
    ben.get_by_role("button", name="Save", exact=True).click()
    alert = ben.get_by_role("alert").filter(has_text="Somebody else has edited this run")
    expect(alert).to_contain_text("notes “what anna wrote”")
    expect(ben.get_by_label("Notes", exact=True)).to_have_value("what ben typed")
    assert team.run(run_id)["notes"] == "what anna wrote"
    ben.get_by_role("button", name="Save my changes too").click()
    expect(anna.locator("#notes")).to_have_text("what ben typed")
    for page in (anna, ben):
        page.close()


def test_two_ways_of_stopping_one_run(team: Team) -> None:
    run_id = team.running("cuda:7", "anna")
    ben = team.page("ben", f"run?id={run_id}")
    expect(ben.locator("#place")).to_have_text("on node-2 · cuda:7")
    line, steps = (ben.locator(s).bounding_box() for s in ("#place", ".run-progress .num >> nth=0"))
    assert line and steps and line["height"] == steps["height"]  # one line where there is room
    ben.locator("#stop summary").click()
    stale = team.contexts["ben"].request.get(f"{team.addresses['ben']}api/v1/runs/{run_id}")
    ben.route(f"**/runs/{run_id}", lambda route: route.fulfill(response=stale))  # not yet told
    anna = team.page("anna", f"run?id={run_id}")
    anna.locator("#stop summary").click()
    anna.get_by_role("button", name="Stop and save").click()
    expect(anna.locator("#people")).to_have_text("Started by anna. Being stopped by anna.")
    ben.get_by_role("button", name="Stop and discard").click()
    expect(ben.locator(".toast")).to_contain_text("is being stopped already by anna")
    assert (team.run(run_id)["cancel_mode"], team.run(run_id)["cancel_by"]) == ("save", "anna")
    jobs.finish(team.engine, run_id, 1, "cancelled")
    for page in (anna, ben):
        page.close()


def test_a_run_that_was_resumed_meanwhile_is_not_deleted(team: Team) -> None:
    run_id = jobs.create_run(team.engine, parse({}))
    jobs.request_cancel(team.engine, run_id, "save", "ben")
    page = team.page("ben", f"run?id={run_id}")
    expect(page.locator("#people")).to_have_text("Stopped by ben.")
    stale = team.contexts["ben"].request.get(f"{team.addresses['ben']}api/v1/runs/{run_id}")
    page.route(f"**/runs/{run_id}", lambda route: route.fulfill(response=stale))
    anna = {"Authorization": f"Bearer {NAMED['anna']}"}
    resumed = team.contexts["anna"].request.post(
        f"{team.addresses['anna']}api/v1/runs/{run_id}/resume", headers=anna
    )
    assert resumed.ok
    page.get_by_role("group").get_by_label("More actions").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator(".toast")).to_contain_text("is queued by now, resumed by anna")
    assert team.run(run_id)["status"] == "queued"
    page.close()


def test_hosts_people_and_whose_link_it_is(team: Team) -> None:
    jobs.create_run(team.engine, parse({}), started_by="anna")
    alone = team.page("anna", "")
    expect(alone.locator(".signed-in")).to_have_text("anna")
    expect(alone.locator("tr[data-run]").first).to_be_visible()
    assert alone.locator("#hosts").count() == 0  # one host: as ever
    alone.close()
    tell_host(team.engine, boot_id(), "node-1", [{"slot": "cpu", "name": "", "memory": 16e9}])
    tell_host(team.engine, "boot-2", "node-2", GPUS, ahead=-7200)
    tell_host(team.engine, "boot-3", "node-3", [{"slot": "cpu", "name": "", "memory": None}])
    with begin(team.engine) as connection:
        past = DatabaseTime() - 190
        connection.execute(update(host).where(host.c.boot == "boot-3").values(seen_at=past))
    run_id = team.running("cuda:1", "ben")
    team.running("cuda:0", "anna", ("boot-9", "node-9"))  # as a cluster's job, of no host here
    new = team.page("anna", "new")
    expect(new.locator("#hosts")).to_have_text("3 hosts, 2 of 3 devices free")
    new.close()
    page = team.page("anna", "")
    opener = page.locator("#hosts")
    expect(opener).to_have_text("3 hosts, 2 of 3 devices free")
    opener.focus()
    page.keyboard.press("Enter")
    table = page.get_by_role("table", name="Hosts and their devices")
    texts = [row.split("\t") for row in table.inner_text().splitlines()]
    assert texts == [
        ["Hosts and their devices"],
        ["Host", "Device", "Run"],
        ["node-1 this server", "cpu · 16.0 GB", "free"],
        ["node-2 its clock is 7,200 s behind the database's", "cuda:0 · H100 · 80.0 GB", "free"],
        ["cuda:1 · H100 · 80.0 GB", "on cuda:1 ben"],
        ["node-3 not seen for 3 min", "cpu", "–"],
    ], texts
    assert serious(page) == []
    page.keyboard.press("Escape")
    expect(opener).to_be_focused()
    row = page.locator(f"tr[data-run='{run_id}']")
    expect(row.get_by_role("link", name="node-2")).to_be_visible()
    row.get_by_role("link", name="ben").click()
    expect(page.get_by_role("button", name="started by ben ×")).to_be_visible()
    expect(page.locator("tr[data-run]")).to_have_count(1)
    page.close()


def test_a_log_on_another_host_says_where_it_lies(team: Team) -> None:
    page = team.page("anna", f"run?id={team.running('cuda:5', 'anna')}")
    log = page.get_by_role("region", name="Log", exact=True)
    expect(log).to_contain_text("The log is on another host")
    expect(log).to_contain_text("It lies on node-2")
    page.close()


def test_in_the_hand_long_names_of_hosts_and_runs_are_whole(team: Team) -> None:
    long = ("boot-5", "node-5.gpu.cluster.example.org")
    run_id = team.running("cuda:4", "anna", long)
    for name, boot in ((long[1], long[0]), ("node-6", "boot-6")):
        tell_host(team.engine, boot, name, [{"slot": "cuda:4", "name": "", "memory": 80e9}])
    page = team.page("anna", f"run?id={run_id}")
    page.set_viewport_size(PHONE["viewport"])
    expect(page.locator("#place")).to_have_text(f"on {long[1]} · cuda:4")
    assert page.evaluate(FAULTS, 0) == []
    page.goto(team.addresses["anna"])
    page.locator("#hosts").click()
    expect(page.get_by_role("rowheader", name=long[1])).to_be_visible()
    hidden = "(e) => e.scrollWidth - e.clientWidth"
    assert page.locator(".hosts").evaluate(hidden) == 0
    page.close()
