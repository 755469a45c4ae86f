"""A throw-away PostgreSQL server of this machine's package, for tests and benchmarks."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

USER = "postgres"  # whose the server is where we are root, which it refuses
START_SECONDS = 60.0
_ENDS_WITH_US = ("setpriv", "--pdeathsig", "QUIT") if shutil.which("setpriv") else ()


def binaries() -> Path | None:
    """Where the newest installed server's programs are; None: there is none."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=_version)
    initdb = shutil.which("initdb")
    return versions[-1].parent if versions else Path(initdb).parent if initdb else None


def _version(path: Path) -> float:
    return float(path.parts[-3])


class PostgresqlServer:
    """Listens on a socket in its folder, and at an address, on a port that stays the same.

    `durable`: waits for the disk at each commit, as by itself; else a crash may lose everything.
    """

    def __init__(self, folder: Path, *, durable: bool = False, address: str = "127.0.0.1") -> None:
        programs = binaries()
        if programs is None:
            raise RuntimeError("there is no PostgreSQL server on this machine")
        self._programs = programs
        self.folder = folder
        self._durable = durable
        self.address = address
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            shutil.chown(folder, USER, USER)
        self._init()
        self._start_on_a_free_port()

    def _start_on_a_free_port(self) -> None:
        """Which another program may take meanwhile."""
        for last in (False, False, True):
            self.port = _free_port(self.address)
            try:
                return self.start()
            except RuntimeError:
                if last:
                    raise

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@{self.address}:{self.port}/{database}"

    def local_url(self, database: str) -> str:
        """By the socket, whatever network the server listens on."""
        return f"postgresql+psycopg://{USER}@/{database}?host={self.folder}&port={self.port}"

    def start(self) -> None:
        """Returns once it answers."""
        settings = {
            "listen_addresses": self.address,
            "port": self.port,
            "unix_socket_directories": str(self.folder),
            "max_connections": 300,
            "shared_buffers": "256MB",
        }
        if not self._durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
            settings |= {"shared_buffers": "64MB", "autovacuum_naptime": "1h"}
        command = [
            *_ENDS_WITH_US,
            str(self._programs / "postgres"),
            "-D",
            str(self.folder / "data"),
        ]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **_as_user(),
            )
        end = time.monotonic() + START_SECONDS
        program, folder = str(self._programs / "pg_isready"), str(self.folder)
        ready = [program, "-q", "-h", folder, "-p", str(self.port)]  # no other one's answer
        while subprocess.run(ready, check=False).returncode:
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: cuts all connections; SIGQUIT: at once, as a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=START_SECONDS)
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def sql(self, statement: str, database: str = "postgres") -> None:
        run_sql(self.local_url(database), statement)

    def _init(self) -> None:
        command = [
            *(str(self._programs / "initdb"), "-D", str(self.folder / "data"), "-U", USER),
            *("-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"),
            *(() if self._durable else ("--no-sync",)),
        ]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            **_as_user(),
        )
        if done.returncode:
            raise RuntimeError(done.stderr)


@contextmanager
def throwaway(
    *, durable: bool = False, parent: Path | None = None, address: str = "127.0.0.1"
) -> Iterator[PostgresqlServer]:
    """A server until the block ends, when it goes with all that it holds."""
    folder = Path(tempfile.mkdtemp(prefix="opd-pg-", dir=parent))
    server = PostgresqlServer(folder, durable=durable, address=address)
    try:
        yield server
    finally:
        server.stop(signal.SIGINT if durable else signal.SIGQUIT)
        shutil.rmtree(folder, ignore_errors=True)


def run_sql(url: str, statement: str) -> None:
    """Outside a transaction."""
    import psycopg

    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(statement.encode())


def _as_user() -> dict[str, Any]:
    if os.getuid() != 0:
        return {}
    return {"user": USER, "group": USER, "extra_groups": []}


def _free_port(address: str) -> int:
    with socket.socket() as bound:
        bound.bind((address, 0))
        return int(bound.getsockname()[1])
