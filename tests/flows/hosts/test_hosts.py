"""The hosts that tests of several machines run on: apart as machines, and gone without a trace."""

import errno
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.engine import open_database
from tests.support.hosts.network import HostNetwork, NamespacedHost, host_network
from tests.support.hosts.postgres import PASSWORD, shared_postgres

PYTHON = ("python3", "-S", "-E", "-c")


@pytest.fixture
def network(tmp_path: Path) -> Iterator[HostNetwork]:
    with host_network(tmp_path / "network", "one", "two") as made:
        yield made


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def said(host: NamespacedHost, *command: str) -> str:
    return host.run(*command).stdout.strip()


def reaches(host: NamespacedHost, name: str) -> bool:
    """Whether the other answers, if only that nothing listens there."""
    code = "import socket, sys\ns = socket.socket()\ns.settimeout(0.3)\n"
    code += "sys.exit(s.connect_ex((sys.argv[1], 8000)) not in (0, 111))"
    return host.run(*PYTHON, code, name).returncode == 0


def test_hosts_differ_in_name_boot_processes_and_network(network: HostNetwork) -> None:
    one, two = network["one"], network["two"]
    boot = "/proc/sys/kernel/random/boot_id"
    assert (said(one, "hostname"), said(two, "hostname")) == ("one", "two")
    assert said(one, "cat", boot) == one.boot != said(two, "cat", boot) == two.boot
    assert said(one, "pwd") == str(Path.cwd())
    sleeps = one.start(["sleep", "600"])
    assert said(one, "pgrep", "-c", "sleep") == "1"
    assert said(two, "pgrep", "-c", "sleep") == "0"
    sleeps.send(signal.SIGTERM)
    assert sleeps.wait() == 128 + signal.SIGTERM or sleeps.wait() == -signal.SIGTERM


def test_a_cable_is_cut_and_mended(network: HostNetwork) -> None:
    assert reaches(network["one"], "two")
    network.cut("two")
    assert not reaches(network["one"], "two")
    assert not reaches(network.outside, "two")
    network.mend("two")
    until(lambda: reaches(network["one"], "two"))


def test_a_thread_speaks_from_a_host(network: HostNetwork) -> None:
    two = network["two"]
    with network["one"].network(), socket.socket() as inside:
        assert inside.connect_ex((two.address, 8000)) == errno.ECONNREFUSED


def test_a_killed_host_loses_all_its_processes_and_starts_under_another_boot(
    network: HostNetwork,
) -> None:
    one, boot = network["one"], network["one"].boot
    detached = one.start(["setsid", "--fork", "sleep", "4711"])
    detached.wait()
    assert said(one, "pgrep", "-c", "sleep") == "1"
    one.kill()
    assert not any_process_with("4711")
    network.start("one")
    assert one.boot != boot
    until(lambda: reaches(network.outside, "one"))


def test_nothing_is_left_of_a_test_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tests.support.hosts.network import host_network\n"
        "with host_network(Path(sys.argv[1]), 'one') as network:\n"
        "    network['one'].start(['sleep', '4712']).pid\n"
        "    print('up', flush=True)\n"
        "    time.sleep(600)"
    )
    test = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert test.stdout is not None
    with test.stdout as output:
        line = output.readline()
    if line != b"up\n":
        test.wait()
        pytest.skip("namespaces: no hosts here")
    assert any_process_with("4712")
    test.kill()
    test.wait()
    until(lambda: not any_process_with("4712"))


def any_process_with(word: str) -> bool:
    matching = subprocess.run(["pgrep", "-f", f"sleep {word}"], capture_output=True, check=False)
    return matching.returncode == 0


def test_hosts_share_a_database_that_is_restarted(network: HostNetwork) -> None:
    with shared_postgres(network) as server:
        open_database(server.local_url).dispose()
        code = "from storage.engine import open_database; import sys; open_database(sys.argv[1])"
        for _ in range(2):
            for host in network.hosts.values():
                done = host.run(sys.executable, "-c", code, server.url)
                assert (done.returncode, done.stderr) == (0, "")
            server.stop()
            server.start()
        wrong = server.url.replace(PASSWORD, "guessed")
        assert "password" in network["one"].run(sys.executable, "-c", code, wrong).stderr
