"""A PostgreSQL server that hosts of a network share: on the host `outside`, in its memory.

From this machine it is reached by a socket, through the files of that host.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.hosts.network import HostNetwork, HostProcess, lacking

PASSWORD = "known-to-hosts"
FOLDER = "/mnt"  # of the host, on which its own file system is mounted
ALLOWED = "local all all trust\nhost all all 10.77.0.0/24 scram-sha-256\n"
OPTIONS = ("fsync=off", "max_connections=100", "listen_addresses=*", "shared_buffers=32MB")
START_SECONDS = 60.0


def programs() -> Path:
    """The folder of PostgreSQL's programs, the newest where there are several; skips the test, or
    fails it where OPD_NEEDED has `postgres`."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    lacking("postgres", "" if found else "there is no PostgreSQL server on this machine")
    return found[-1].parent


class SharedPostgres:
    """`url` is for the hosts, `local_url` for this machine; both hold the same database."""

    def __init__(self, network: HostNetwork) -> None:
        self._host = network.outside
        self._programs = programs()
        self._server: HostProcess | None = None
        self.url = f"postgresql+psycopg://postgres:{PASSWORD}@{self._host.address}/postgres"

    @property
    def local_url(self) -> str:
        folder = f"{self._host.files}{FOLDER}"
        return f"postgresql+psycopg://postgres@/postgres?host={folder}"

    def make(self) -> None:
        script = (
            f"mount -t tmpfs -o size=1g,mode=777 tmpfs {FOLDER} && umask 077 && "
            f"echo {PASSWORD} > {FOLDER}/password && chown postgres {FOLDER}/password"
        )
        self._run("sh", "-c", script)
        initdb = ("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8")
        folder = (f"--pgdata={FOLDER}/data", f"--pwfile={FOLDER}/password")
        self._run(*self._as_postgres(*initdb, *folder))
        self._run("sh", "-c", f"echo '{ALLOWED}' > {FOLDER}/data/pg_hba.conf")

    def start(self) -> None:
        options = [f"-c{option}" for option in (*OPTIONS, f"unix_socket_directories={FOLDER}")]
        self._server = self._host.start(
            self._as_postgres("postgres", "-D", f"{FOLDER}/data", *options),
            directory=Path("/"),
        )
        ready = Path(f"{self._host.files}{FOLDER}/.s.PGSQL.5432")
        until = time.monotonic() + START_SECONDS
        isready = self._as_postgres("pg_isready", "--quiet", f"--host={FOLDER}")
        while self._host.run(*isready, directory=Path("/")).returncode:
            assert time.monotonic() < until and self._server.poll() is None, "PostgreSQL's start"
            time.sleep(0.05)
        assert ready.is_socket()

    def stop(self) -> None:
        """As a restart for maintenance does: every connection is cut."""
        if self._server is not None:
            self._server.send(signal.SIGINT)
            self._server.wait()

    def _as_postgres(self, name: str, *arguments: str) -> list[str]:
        user = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")
        return [*user, str(self._programs / name), *arguments]

    def _run(self, *command: str) -> None:
        done = self._host.run(*command, directory=Path("/"))
        assert done.returncode == 0, f"{command[-1]}: {done.stdout}{done.stderr}"


@contextmanager
def shared_postgres(network: HostNetwork) -> Iterator[SharedPostgres]:
    """Ends with the network, too."""
    server = SharedPostgres(network)
    server.make()
    server.start()
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.stop()
