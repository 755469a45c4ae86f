import pytest
from sqlalchemy import Engine, update

from storage.engine import begin
from storage.queue.hosts import KEPT_SECONDS, read_hosts, tell_host
from storage.schema import host

GPU = {"slot": "cuda:0"}


def test_a_host_is_there_as_it_told_of_itself_last(engine: Engine) -> None:
    tell_host(engine, "boot-2", "two", [])
    tell_host(engine, "boot-1", "one", [GPU])
    tell_host(engine, "boot-2", "two", [GPU, GPU])
    hosts = read_hosts(engine)
    assert [(h.boot, h.name, h.devices) for h in hosts] == [
        ("boot-1", "one", [GPU]),
        ("boot-2", "two", [GPU, GPU]),
    ]
    assert all(0 <= h.age < 60 for h in hosts)


def test_a_boot_of_long_ago_is_forgotten_once_another_tells(engine: Engine) -> None:
    tell_host(engine, "old", "one", [])
    for seconds, left in ((KEPT_SECONDS - 100, ["new", "old"]), (200, ["newer", "new"])):
        with begin(engine) as connection:
            connection.execute(update(host).values(seen_at=host.c.seen_at - seconds))
        tell_host(engine, left[0], "one", [])
        assert [h.boot for h in read_hosts(engine)] == left
    assert read_hosts(engine)[1].age == pytest.approx(200, abs=60)
