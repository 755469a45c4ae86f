"""A SLURM of a test's own: its controller on the host `outside`, a node on each other host of the
network. Its key, its socket and its files lie in a folder of the test."""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.hosts.network import HostNetwork, HostProcess, lacking

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
START_SECONDS = 60.0
STATE_KEPT = 6.0  # seconds; it waits for more changes for up to five
SETTINGS = """
ClusterName=test
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=8
MessageTimeout=5
InactiveLimit=0
SchedulerParameters=sched_interval=1,bf_interval=1
"""


class SlurmCluster:
    """`environment` is for whatever asks it."""

    def __init__(self, network: HostNetwork, folder: Path, kill_wait: int = 5) -> None:
        self._network = network
        self._folder = folder
        self._kill_wait = kill_wait
        self._daemons: dict[str, HostProcess] = {}
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def make(self, cores: int, memory_mb: int) -> None:
        self._folder.mkdir(parents=True)
        self._folder.chmod(0o755)  # munge wants no folder that others could write
        key = self._folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        names = list(self._network.hosts)
        nodes = [
            f"NodeName={name} NodeAddr={self._network[name].address} CPUs={cores} "
            f"RealMemory={memory_mb} State=UNKNOWN"
            for name in names
        ]
        settings = [
            SETTINGS,
            f"SlurmctldHost=outside({self._network.outside.address})",
            f"AuthInfo=socket={self._folder}/munge.sock",
            f"KillWait={self._kill_wait}",
            f"StateSaveLocation={self._folder}/state",
            f"SlurmdSpoolDir={self._folder}/spool-%n",
            f"SlurmctldPidFile={self._folder}/controller.pid",
            f"SlurmdPidFile={self._folder}/node-%n.pid",
            f"PartitionName=main Nodes={','.join(names)} Default=YES MaxTime=120 State=UP",
            f"PartitionName=short Nodes={names[0]} MaxTime=10 State=UP",
            *nodes,
        ]
        for name in ("state", *(f"spool-{name}" for name in names)):
            (self._folder / name).mkdir()
        (self._folder / "slurm.conf").write_text("\n".join(settings) + "\n", encoding="utf-8")

    def start(self) -> None:
        options = (
            f"--key-file={self._folder}/munge.key",
            f"--socket={self._folder}/munge.sock",
            f"--pid-file={self._folder}/munged.pid",
            f"--log-file={self._folder}/munged.log",
            f"--seed-file={self._folder}/munge.seed",
        )
        self._start("munged", "outside", ["munged", "--foreground", "--force", *options])
        self._wait(lambda: (self._folder / "munge.sock").exists(), "munged")
        self.start_controller()
        for name in self._network.hosts:
            self.start_node(name)
        self.wait_idle()

    def stop(self) -> None:
        for daemon in self._daemons.values():
            if daemon.poll() is None:
                daemon.send(signal.SIGKILL)
            daemon.wait()

    def start_controller(self) -> None:
        self._start("controller", "outside", ["slurmctld", "-D"])

    def stop_controller(self) -> None:
        """Suddenly, but after it has kept its state: jobs of the last seconds it would forget."""
        time.sleep(STATE_KEPT)
        self._daemons["controller"].send(signal.SIGKILL)
        self._daemons["controller"].wait()

    def start_node(self, name: str) -> None:
        self._start(name, name, ["slurmd", "-D", "-N", name])

    def wait_idle(self) -> None:
        names = len(self._network.hosts)
        command = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T")
        self._wait(lambda: self.run(*command).split() == ["idle"] * names, "all nodes idle")

    def run(self, *command: str) -> str:
        """Output of a command of SLURM's on the controller's host; "" where it fails."""
        done = self._network.outside.run(*command, environment=self.environment)
        return done.stdout if done.returncode == 0 else ""

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def _start(self, name: str, host: str, command: Sequence[str]) -> None:
        where = self._network.outside if host == "outside" else self._network[host]
        log = self._folder / f"{name}.log"
        if name in self._daemons:
            self._daemons[name].wait()
        self._daemons[name] = where.start(command, self.environment, log=log)

    def _wait(self, condition: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + START_SECONDS
        while not condition():
            assert time.monotonic() < until, f"SLURM: {what} not in time"
            time.sleep(0.1)


@contextmanager
def slurm_cluster(
    network: HostNetwork, folder: Path, *, cores: int = 2, memory_mb: int = 4000
) -> Iterator[SlurmCluster]:
    """Ends with the network. Skips the test where there is no SLURM, or fails it where OPD_NEEDED
    has `slurm`."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    lacking("slurm", f"there is no {missing[0]} on this machine" if missing else "")
    cluster = SlurmCluster(network, folder)
    cluster.make(cores, memory_mb)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
