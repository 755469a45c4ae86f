"""A PostgreSQL server that hosts of a network share: at the address of `outside`.

From this machine it is reached by its socket.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.support.postgresql import USER, PostgresqlServer, throwaway
from tests.support.databases import matrix
from tests.support.hosts.network import SUBNET, HostNetwork

PASSWORD = "known-to-hosts"
DATABASE = "postgres"
ALLOWED = f"host all all {SUBNET}.0/24 scram-sha-256\n"


class SharedPostgres:
    """`url` is for the hosts, `local_url` for this machine; both hold the same database."""

    def __init__(self, network: HostNetwork, server: PostgresqlServer) -> None:
        self._host = network.outside
        self._server = server
        self.url = server.url(DATABASE).replace("@", f":{PASSWORD}@")
        self.local_url = server.local_url(DATABASE)
        with (server.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(ALLOWED)
        server.sql(f"ALTER USER {USER} PASSWORD '{PASSWORD}'")
        server.sql("SELECT pg_reload_conf()")

    def start(self) -> None:
        with self._host.network():
            self._server.start()

    def stop(self) -> None:
        """As a restart for maintenance does: every connection is cut."""
        self._server.stop()


@contextmanager
def shared_postgres(network: HostNetwork) -> Iterator[SharedPostgres]:
    matrix.needed()
    with ExitStack() as stack:
        with network.outside.network():
            server = stack.enter_context(throwaway(address=network.outside.address))
        yield SharedPostgres(network, server)
