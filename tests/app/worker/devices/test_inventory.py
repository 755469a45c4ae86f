"""Hosts that share a database: what each has, what is free, and whom a queued run waits for."""

import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from app.worker.devices import inventory
from app.worker.devices.inventory import HostBeat, left_to_others, serving_hosts
from app.worker.devices.waiting import why_queued
from app.worker.owners.place import boot_id, host_name
from opd.config.run import parse
from opd.devices.gpus import DriverReport, Gpu
from storage import clock
from storage.data_dir import DataDir
from storage.engine import DatabaseTime, begin
from storage.queue import jobs
from storage.queue.hosts import read_hosts, tell_host
from storage.queue.jobs import Owner
from storage.schema import host
from tests.support.api_client import Api

GPUS = [{"slot": f"cuda:{i}", "name": "H100", "memory": 80e9} for i in range(2)]
CPU = [{"slot": "cpu", "name": "", "memory": 16e9}]


def there(boot: str, name: str) -> Owner:
    return Owner(4711, 12.5, boot, f"{name} 42 dir")


def running(engine: Engine, slot: str, boot: str, name: str, by: str = "") -> str:
    run_id = jobs.create_run(engine, parse({"name": f"on {slot}"}), started_by=by)
    assert jobs.claim(engine, run_id, slot, there(boot, name)) is not None
    return run_id


def silent(engine: Engine, boot: str, seconds: float) -> None:
    with begin(engine) as connection:
        connection.execute(
            update(host).where(host.c.boot == boot).values(seen_at=DatabaseTime() - seconds)
        )


def reasons(engine: Engine, run_id: str) -> str | None:
    return why_queued(engine, [{"id": run_id, "status": "queued"}], "").get(run_id)


def test_one_machine_tells_nobody_and_is_listed_all_the_same(api: Api, engine: Engine) -> None:
    HostBeat(engine, DataDir(Path("/nonexistent"))).turn()
    assert read_hosts(engine) == []
    run_id = running(engine, "cpu", boot_id(), host_name(), "anna")
    answer = api.get("/hosts")
    [alone] = answer["items"]
    assert answer["shared"] is False  # the page need not ask again
    assert (alone["name"], alone["here"], alone["seen"], alone["age"]) == (
        host_name(),
        True,
        True,
        0,
    )
    by_slot = {device["slot"]: device["run"] for device in alone["devices"]}
    assert by_slot["cpu"] == {"id": run_id, "name": "on cpu", "started_by": "anna"}


def test_a_host_tells_of_itself_now_and_then(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(inventory.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(inventory, "gpu_count", lambda: 2)
    report = DriverReport((Gpu(0, "H100", 80e9, 1.0, 2.0),))
    monkeypatch.setattr(inventory, "ask_driver", lambda: report)
    inventory._devices.cache_clear()
    beat = HostBeat(engine, DataDir(Path("/nonexistent"), host="one"))
    beat.turn()
    [host] = read_hosts(engine)
    unnamed = {"slot": "cuda:1", "name": "", "memory": None}
    assert (host.boot, host.devices) == (boot_id(), [GPUS[0], unnamed])
    inventory._devices.cache_clear()
    silent(engine, host.boot, 500)
    beat.turn()
    assert read_hosts(engine)[0].age > 400
    now[0] += inventory.TELL_EVERY
    beat.turn()
    assert read_hosts(engine)[0].age < 60
    HostBeat(engine, DataDir(Path("/nonexistent"), host="one"), takes_runs=False).turn()
    assert read_hosts(engine)[0].devices == []


def test_a_host_whose_clock_is_wrong_says_so_once(
    api: Api, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    true = time.time
    beat = HostBeat(engine, DataDir(Path("/nonexistent"), host="one"))
    for ahead, message in ((50, None), (3600, "3,600 s ahead of the database's")):
        monkeypatch.setattr(clock.time, "time", lambda ahead=ahead: true() + ahead)
        for _ in range(2):
            beat._reported_at = None
            beat.turn()
        assert api.get("/hosts")["items"][0]["clock"] == message
    [line] = caplog.messages
    assert line.startswith("the clock of this host is 3,600 s ahead of the database's: set it")


def test_several_hosts_with_what_is_free_and_whose_the_rest_is(api: Api, engine: Engine) -> None:
    tell_host(engine, boot_id(), "one", CPU)
    tell_host(engine, "boot-2", "two", GPUS)
    tell_host(engine, "boot-3", "three", CPU)
    tell_host(engine, "boot-4", "four", CPU)
    tell_host(engine, "boot-0", "two", CPU)  # before it was started anew
    silent(engine, "boot-3", 180)
    silent(engine, "boot-4", 2 * 86_400)
    silent(engine, "boot-0", 120)
    run_id = running(engine, "cuda:1", "boot-2", "two", "ben")
    odd = running(engine, "cpu", "boot-2", "two")
    items: list[dict[str, Any]] = api.get("/hosts")["items"]
    names = [(item["name"], item["here"], item["seen"]) for item in items]
    assert names == [("one", True, True), ("three", False, False), ("two", False, True)]
    assert items[1]["age"] == pytest.approx(180, abs=20)
    runs = {device["slot"]: device["run"] and device["run"]["id"] for device in items[2]["devices"]}
    assert runs == {"cpu": odd, "cuda:0": None, "cuda:1": run_id}


def test_a_queued_run_says_whose_runs_have_the_devices_of_all_hosts(
    api: Api, engine: Engine
) -> None:
    tell_host(engine, boot_id(), "one", CPU)
    tell_host(engine, "boot-2", "two", GPUS)
    queued = jobs.create_run(engine, parse({"device": "cuda"}))
    assert reasons(engine, queued) is None  # two GPUs are free
    first = running(engine, "cuda:0", "boot-2", "two", "ben")
    assert reasons(engine, queued) is None
    second = running(engine, "cuda:1", "boot-2", "two")
    taken = f"cuda:0 on two in use by {first} (ben), cuda:1 on two in use by {second}"
    assert reasons(engine, queued) == taken  # this host has no GPU
    anywhere = jobs.create_run(engine, parse({"device": "cpu"}))
    assert reasons(engine, anywhere) is None
    here = running(engine, "cpu", boot_id(), "one", "anna")
    there_too = running(engine, "cpu", "boot-2", "two", "anna")
    assert reasons(engine, anywhere) == (
        f"cpu on one in use by {here} (anna), cpu on two in use by {there_too} (anna)"
    )
    assert api.get(f"/runs/{queued}")["waits_for"] == {}
    assert api.get(f"/runs/{queued}")["waits_because"].endswith(taken)


def test_runs_say_where_and_whose_they_are_and_are_found_by_it(api: Api, engine: Engine) -> None:
    first = running(engine, "cuda:0", "boot-2", "two", "ben")
    other = running(engine, "cpu", "boot-3", "two.lab", "anna")
    waiting = jobs.create_run(engine, parse({}), waiter=there("boot-2", "two"), started_by="ben")
    listed = {run["id"]: (run["host"], run["started_by"]) for run in api.get("/runs")["items"]}
    assert listed == {
        first: ("two", "ben"),
        other: ("two.lab", "anna"),
        waiting: (None, "ben"),
    }
    for filters, runs in (
        ({"host": "two"}, [first]),
        ({"started_by": "ben"}, [waiting, first]),
        ({"started_by": "ben", "host": "two", "columns": "host"}, [first]),
        ({"search": "anna"}, [other]),
        ({"host": "tw_"}, []),
    ):
        assert [run["id"] for run in api.get("/runs", **filters)["items"]] == runs
    table = api.get("/runs", columns="host,started_by,cluster_job", sort="host")
    assert [run["columns"]["host"] for run in table["items"]] == ["two", "two.lab", None]
    csv = api("GET", "/runs.csv?started_by=anna").text.splitlines()
    assert (
        len(csv) == 2 and csv[0].endswith(",started_by,host") and csv[1].endswith(",anna,two.lab")
    )


def test_a_run_that_wants_gpus_is_left_to_a_host_that_has_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "gpu_count", lambda: 0)
    tell_host(engine, boot_id(), host_name(), CPU)

    def left(device: str, count: int) -> bool:
        return left_to_others(serving_hosts(engine), device, count)

    assert not left("cuda", 1), "nobody has any: it is refused in words"
    tell_host(engine, "boot-2", "two", GPUS)
    demands = [("cuda", 1), ("cuda:1", 1), ("cuda", 2), ("auto", 2)]
    assert all(left(device, count) for device, count in demands)
    here = [("cuda", 3), ("cuda:2", 1), ("auto", 1), ("cpu", 2), ("mps", 1)]
    assert not any(left(device, count) for device, count in here)
    monkeypatch.setattr(inventory, "gpu_count", lambda: 1)
    assert not left("cuda", 1)
    assert left("cuda", 2)
    silent(engine, "boot-2", 100)
    assert not left("cuda", 2)
