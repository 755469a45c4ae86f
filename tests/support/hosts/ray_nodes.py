"""A Ray of a test's own: a node with a CPU on each host of the network, the head on the first."""

import importlib.util
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from opd.network import client
from tests.support.hosts.network import HostNetwork, HostProcess, lacking

START = Path(__file__).with_name("ray_start.py")
START_SECONDS = 240.0
TRIES = 3  # its parts give each other fifteen seconds, whatever else the machine does
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "240",
    "RAY_DASHBOARD_SUBPROCESS_MODULE_WAIT_READY_TIMEOUT": "200",
}
NOTICES_SOON = {  # a dead node, after some ten seconds
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
}
OPTIONS = ("--block", "--num-cpus=1", "--num-gpus=0", "--object-store-memory=80000000")


class RayCluster:
    """`address` is that of its Jobs API, for hosts of the network."""

    def __init__(self, network: HostNetwork, folder: Path, settings: Mapping[str, str]) -> None:
        self._network = network
        self._environment = {**ENVIRONMENT, **settings}
        self.folder = folder  # of a short path: it holds sockets
        self._head, *self._others = network.hosts
        self._nodes: dict[str, HostProcess] = {}
        self.address = f"http://{network[self._head].address}:8265"

    def start(self) -> None:
        for name in (self._head, *self._others):
            self.start_node(name)

    def start_node(self, name: str) -> None:
        """Again where it does not come up, as on a machine that is busy with other things."""
        for _ in range(TRIES):
            node = self._start(name)
            until = time.monotonic() + START_SECONDS
            while time.monotonic() < until and node.poll() is None:
                if self._network[name].address in self.living():
                    return
                time.sleep(0.5)
        raise AssertionError(f"Ray did not start on {name}:\n{self.log(name)[-3000:]}")

    def living(self) -> list[str]:
        """Addresses of the nodes that Ray holds to be alive; none while it does not answer."""
        try:
            with self._network.outside.network(), client(self.address, timeout=10) as http:
                nodes = http.get(f"{self.address}/nodes?view=summary").json()["data"]["summary"]
        except (httpx.TransportError, ValueError, KeyError):
            return []
        alive = [node["raylet"] for node in nodes if node["raylet"].get("state") == "ALIVE"]
        return [str(raylet["nodeManagerAddress"]) for raylet in alive]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str) -> HostProcess:
        host, head = self._network[name], self._network[self._head]
        heads = ("--head", "--port=6379", "--dashboard-host=0.0.0.0", "--include-dashboard=true")
        where = f"--node-ip-address={host.address}"
        role: tuple[str, ...] = (f"--address={head.address}:6379",)
        if name == self._head:
            role = (*heads, f"--temp-dir={self.folder / 'ray'}")
        if name in self._nodes and self._nodes[name].poll() is None:
            self._nodes[name].send(9)
        command = [sys.executable, str(START), *role, where, *OPTIONS]
        log = self.folder / f"{name}.log"
        self._nodes[name] = host.start(command, self._environment, log=log)
        return self._nodes[name]


@contextmanager
def ray_cluster(
    network: HostNetwork, settings: Mapping[str, str] | None = None
) -> Iterator[RayCluster]:
    """Ends with the network; `settings`: of Ray, by its variables. Skips the test where there is no
    Ray, or fails it where OPD_NEEDED has `ray`."""
    there = importlib.util.find_spec("ray") is not None
    lacking("ray", "" if there else "Ray is not installed: pip install 'ray[default]'")
    folder = Path(tempfile.mkdtemp(prefix=f"ray-{os.getpid()}-", dir="/tmp"))
    try:
        cluster = RayCluster(network, folder, settings or {})
        cluster.start()
        yield cluster
    finally:
        for host in network.hosts.values():
            host.kill()
        shutil.rmtree(folder, ignore_errors=True)
