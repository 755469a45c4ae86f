"""Hosts on one machine: each has its own network, host name, boot id and process ids, and shares
the file system. They hang on a bridge of their own, which nothing outside can reach.

A host is a set of namespaces that its first process holds open (`holder.py`). It dies with that
process, which ends when its input closes: by `kill()`, at the end of the block, or because the test
was killed. Nothing is left on the machine then. Needs root.
"""

import ctypes
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

HOLDER = Path(__file__).with_name("holder.py")
SPACES = ("--mount", "--uts", "--net", "--ipc", "--pid")
SUBNET = "10.77.0"
BRIDGE = "bridge"
CLONE_NEWNET = 0x40000000
PROGRAMS = ("ip", "unshare", "nsenter")
PATIENCE = 30.0


def why_no_hosts() -> str:
    """Why hosts cannot be had here; "" where they can."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"there is no {missing[0]} on this machine"
    if os.geteuid() != 0:
        return "hosts in namespaces need root"
    probe = "ip link add probe type veth peer name other && ip link add bridge type bridge"
    command = ["unshare", *SPACES, "--fork", "--mount-proc", "sh", "-c", probe]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() or "namespaces are not allowed" if done.returncode else ""


def lacking(word: str, why: str) -> None:
    """Skips the test, but fails it where OPD_NEEDED has the word; nothing where `why` is ""."""
    if why:
        needed = os.environ.get("OPD_NEEDED", "").replace(",", " ").split()
        (pytest.fail if word in needed else pytest.skip)(f"{word}: {why}")


class HostProcess:
    """A process on a host, with its process id as this machine counts it."""

    def __init__(self, entering: "subprocess.Popen[bytes]") -> None:
        self._entering = entering  # nsenter(1), whose child it is

    @property
    def pid(self) -> int:
        """0 where it has ended."""
        children = Path(f"/proc/{self._entering.pid}/task/{self._entering.pid}/children")
        until = time.monotonic() + PATIENCE
        while self.poll() is None and time.monotonic() < until:
            if pids := children.read_text().split():
                return int(pids[0])
            time.sleep(0.005)
        return 0

    def send(self, number: int) -> None:
        if pid := self.pid:
            os.kill(pid, number)

    def poll(self) -> int | None:
        return self._entering.poll()

    def wait(self, seconds: float = PATIENCE) -> int:
        return self._entering.wait(seconds)


class NamespacedHost:
    """A host by its name and address. Commands find the same files there as here."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name = name
        self.address = address
        self.boot = ""
        self._folder = folder
        self._holder: subprocess.Popen[bytes] | None = None
        self._first = 0  # process id of the holder
        self._entering: list[subprocess.Popen[bytes]] = []

    def turn_on(self) -> None:
        """With a boot id of its own; a host that was killed starts anew, under another one."""
        self.boot = str(uuid.uuid4())
        self._folder.mkdir(parents=True, exist_ok=True)
        boot = self._folder / "boot_id"
        boot.write_text(f"{self.boot}\n", encoding="ascii")
        inside = (
            f"hostname {self.name} && mount --bind {boot} /proc/sys/kernel/random/boot_id && "
            f"mount --bind {self._folder.parent / 'hosts'} /etc/hosts && ip link set lo up && "
            f"exec {sys.executable} -S -E {HOLDER}"
        )
        self._holder = subprocess.Popen(
            ["unshare", *SPACES, "--fork", "--mount-proc", "sh", "-c", inside],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
        )
        assert self._holder.stdout is not None
        with self._holder.stdout as output:
            assert output.readline() == b"up\n", f"host {self.name} did not start"
        pid = self._holder.pid
        [first] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._first = int(first)

    @property
    def files(self) -> Path:
        """The root of its files as this machine sees them, with what only it has mounted."""
        return Path(f"/proc/{self._first}/root")

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        *,
        log: Path | None = None,
        directory: Path | None = None,
    ) -> HostProcess:
        """Starts the command on the host; its output goes to the log."""
        with (log or Path(os.devnull)).open("ab") as output:
            entering = subprocess.Popen(
                self._entered(command, directory),
                env=self._environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._entering.append(entering)
        return HostProcess(entering)

    def run(
        self,
        *command: str,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        seconds: float = 120.0,
    ) -> "subprocess.CompletedProcess[str]":
        """Runs the command on the host to its end, whatever its exit code."""
        return subprocess.run(
            self._entered(command, directory),
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )

    @contextmanager
    def network(self) -> Iterator[None]:
        """What this thread opens inside goes to the host's network."""
        with open("/proc/thread-self/ns/net") as here, open(f"/proc/{self._first}/ns/net") as there:
            _enter(there)
            try:
                yield
            finally:
                _enter(here)

    def kill(self) -> None:
        """Ends everything on the host at once, as a failure of its power does; its address is gone
        until `turn_on`."""
        holder, self._holder = self._holder, None
        if holder is not None:
            assert holder.stdin is not None
            holder.stdin.close()
            holder.wait(PATIENCE)
        while self._entering:
            self._entering.pop().wait(PATIENCE)

    def _entered(self, command: Sequence[str], directory: Path | None) -> list[str]:
        spaces = ["nsenter", "--target", str(self._first), *SPACES]
        where = str(directory or Path.cwd())
        return [*spaces, "sh", "-c", 'cd "$0" && exec "$@"', where, *command]

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, "HOSTNAME": self.name, **(more or {})}


class HostNetwork:
    """Hosts on a bridge: `outside`, which is never cut and has the bridge itself, and the others by
    their names."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        addresses = {name: f"{SUBNET}.{2 + i}" for i, name in enumerate(names)}
        self.outside = NamespacedHost("outside", f"{SUBNET}.1", folder / "outside")
        self.hosts = {n: NamespacedHost(n, a, folder / n) for n, a in addresses.items()}
        hosts_file = "".join(
            f"{h.address} {h.name}\n" for h in (self.outside, *self.hosts.values())
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{hosts_file}", encoding="utf-8")

    def __getitem__(self, name: str) -> NamespacedHost:
        return self.hosts[name]

    def turn_on(self) -> None:
        self.outside.turn_on()
        self._ip(f"link add {BRIDGE} type bridge")
        self._ip(f"addr add {self.outside.address}/24 dev {BRIDGE}")
        self._ip(f"link set {BRIDGE} up")
        for name in self.hosts:
            self.start(name)

    def start(self, name: str) -> NamespacedHost:
        """Turns a host on, or on again, and plugs it in."""
        host = self.hosts[name]
        host.turn_on()
        with suppress(AssertionError):  # of a host that was killed: it goes by itself, but later
            self._ip(f"link del {name}")
        self._ip(f"link add {name} type veth peer name eth0 netns {host._first}")
        self._ip(f"link set {name} master {BRIDGE} up")
        for words in (f"addr add {host.address}/24 dev eth0", "link set eth0 up"):
            _ip(host, words)
        return host

    def cut(self, name: str) -> None:
        """Pulls the host's network cable: nothing arrives any more, and nobody is told."""
        self._ip(f"link set {name} down")

    def mend(self, name: str) -> None:
        self._ip(f"link set {name} up")

    def turn_off(self) -> None:
        for host in (*self.hosts.values(), self.outside):
            host.kill()

    def _ip(self, words: str) -> None:
        _ip(self.outside, words)


@contextmanager
def host_network(folder: Path, *names: str) -> Iterator[HostNetwork]:
    """Hosts of these names; skips the test where there can be none, or fails it where OPD_NEEDED
    has `namespaces`. `folder` keeps their small files."""
    lacking("namespaces", why_no_hosts())
    network = HostNetwork(folder, names)
    with ExitStack() as stack:
        stack.callback(network.turn_off)
        network.turn_on()
        yield network


def _ip(host: NamespacedHost, words: str) -> None:
    """ip(8) on the host's network, with this machine's process ids."""
    entered = ["nsenter", f"--net=/proc/{host._first}/ns/net", "ip", *words.split()]
    done = subprocess.run(entered, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{host.name}: ip {words}: {done.stderr}"


def _enter(namespace: IO[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace.fileno(), CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
