"""Connections share the files that a process may have open."""

import resource
import subprocess
import sys

import pytest

from opd import open_files
from tests.support.fake_training import ROOT

SHARES = (
    "import resource, sys; from opd.open_files import *\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)\n"
    "print(database_connections(72), network_connections())"
)


@pytest.mark.parametrize("limit", [40, 64, 256])
def test_shares_leave_room_for_the_program(limit: int) -> None:
    command = [sys.executable, "-c", SHARES, str(limit)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    database, network = map(int, output.split())
    assert database >= 2 and network >= 2
    assert open_files.KEPT + database * (open_files.OF_DATABASE - 1) + network <= limit


def test_where_there_are_plenty_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft in (1024, 10_000, resource.RLIM_INFINITY):
        monkeypatch.setattr(resource, "getrlimit", lambda _, n=soft: (n, n))
        assert open_files.database_connections(72) == 72
        assert open_files.network_connections() is None


def test_the_limit_is_that_of_the_system() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert open_files.limit() == (soft if 0 <= soft < open_files.PLENTY else None)
