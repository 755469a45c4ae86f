"""Runs are queued on two hosts, of which one is killed and one cut off for a minute, and their
controller, an `opd serve`, is killed and started again: does every run end once?

    python -m bench.cluster supervisors|slurm|ray [--runs 20] [--cut 60]

The hosts are namespaces of this machine that share PostgreSQL and a folder (needs root). Runs are
two real steps of the bundled pair. Exits 1 where a run is done twice, or never ends.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.worker.launchers.database import DATABASE_VARIABLE, write_address
from app.worker.launchers.launcher import VARIABLE
from bench.cluster.scene import FIRST, KILLED, Scene, played, say, twice
from bench.support.markdown import table
from storage.data_dir import DataDir
from storage.engine import open_database
from storage.read.runs import read_runs
from tests.support.hosts.network import HostNetwork, HostProcess, host_network
from tests.support.hosts.postgres import SharedPostgres, shared_postgres
from tests.support.hosts.ray_nodes import ray_cluster
from tests.support.hosts.slurm import slurm_cluster

HEADER = ["cluster", "runs", "finished", "interrupted", "twice", "killed host told after", "in all"]


@contextmanager
def supervisors(network: HostNetwork, server: SharedPostgres, folder: Path) -> Iterator[Scene]:
    """One on each host."""
    with _scene(network, server, folder, {}) as scene:
        for name in network.hosts:
            scene.start(name)
        yield scene


@contextmanager
def slurm(network: HostNetwork, server: SharedPostgres, folder: Path) -> Iterator[Scene]:
    with slurm_cluster(network, folder / "slurm") as cluster:
        environment = {**cluster.environment, VARIABLE: "slurm"}
        with _scene(network, server, folder, environment) as scene:
            scene.revive = cluster.start_node
            scene.start("outside")
            yield scene


@contextmanager
def ray(network: HostNetwork, server: SharedPostgres, folder: Path) -> Iterator[Scene]:
    with ray_cluster(network) as cluster:
        environment = {VARIABLE: f"ray={cluster.address}"}
        with _scene(network, server, folder, environment) as scene:
            scene.revive = cluster.start_node
            scene.cut = KILLED  # the other one is the head
            scene.start("outside")
            yield scene


CLUSTERS = {"supervisors": supervisors, "slurm": slurm, "ray": ray}


@contextmanager
def _scene(
    network: HostNetwork, server: SharedPostgres, folder: Path, environment: dict[str, str]
) -> Iterator[Scene]:
    data_dir = DataDir(folder / "data")
    data_dir.path.mkdir()
    write_address(data_dir, server.url)
    engine = open_database(server.local_url)
    variables = {**environment, DATABASE_VARIABLE: server.url, "OMP_NUM_THREADS": "1"}
    variables |= {"OPD_STANDBY": "0", "PYTHONPATH": os.getcwd()}

    def control(name: str) -> HostProcess:
        host = network.outside if name == "outside" else network[name]
        serve = ("-m", "app.cli.main", "serve", "--port", "0", "--data-dir", str(data_dir))
        return host.start([sys.executable, *serve], variables, log=folder / f"{name}-output.txt")

    try:
        yield Scene(network, engine, control, lambda _: None)
    finally:
        engine.dispose()


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.cluster")
    parser.add_argument("cluster", choices=CLUSTERS)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--cut", type=float, default=60.0, help="seconds without a network")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        network = stack.enter_context(host_network(folder / "network", FIRST, KILLED))
        server = stack.enter_context(shared_postgres(network))
        scene = stack.enter_context(CLUSTERS[options.cluster](network, server, folder))
        say(f"{options.cluster} is up; {options.runs} runs are queued")
        start = time.monotonic()
        scene.queue(options.runs)
        noticed = played(scene, options.cut)
        seconds, ends, wrong = time.monotonic() - start, scene.statuses(), twice(scene)
        for text in wrong:
            say(f"WRONG: {text}")
        for run in read_runs(scene.engine, limit=len(scene.runs))["items"]:
            if run["status"] != "finished":
                say(f"{run['id']}: {run['status']}: {run['error_text']}")
    cells = (options.cluster, options.runs, ends["finished"], ends["interrupted"], len(wrong))
    row = (*cells, f"{noticed:.0f} s", f"{seconds:.0f} s")
    for line in table(HEADER, [[str(cell) for cell in row]]):
        print(line)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
