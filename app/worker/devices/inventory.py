"""The devices of this host and of the others that work on the same database: free, or whose."""

import functools
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil
from sqlalchemy import Engine

from app.worker.devices import slots
from app.worker.owners.place import boot_id, host_name
from app.worker.owners.standing import LOST_AFTER
from opd.devices.gpus import ask_driver, gpu_count
from storage import clock
from storage.data_dir import DataDir
from storage.queue.hosts import SeenHost, TakenSlot, read_hosts, taken_slots, tell_host

log = logging.getLogger(__name__)
TELL_EVERY = 10.0  # seconds
FORGOTTEN_AFTER = 86_400.0  # seconds


@dataclass(frozen=True)
class HostDevices:
    """A host with what it has; `taken`: slot → the run there. `age` in seconds since it was last
    heard of, 0 for this one. `here`: whether it is this one."""

    name: str
    boot: str
    here: bool
    age: float
    devices: list[dict[str, Any]]
    taken: dict[str, TakenSlot]
    ahead: float = 0.0  # its clock of the database's, in seconds

    @property
    def seen(self) -> bool:
        """Whether it was heard of lately, so that it takes runs."""
        return self.age < LOST_AFTER

    def free_for(self, device: str, count: int) -> bool:
        """Whether a run with `count` of this device could start there now."""
        return (
            slots.choose(device, self.taken, self.gpus, count=count, apple=self._apple) is not None
        )

    def has(self, device: str) -> bool:
        """Whether it has such a device; a processor is everywhere."""
        if device.startswith("cuda"):
            return bool(self.gpus) if device == "cuda" else device in self._slots
        return device in ("auto", "cpu", *self._slots)

    def in_use(self, device: str) -> list[TakenSlot]:
        """What has the slots that such a run may take."""
        candidates = slots.candidates(device, self.gpus, apple=self._apple)
        return [self.taken[slot] for slot in candidates if slot in self.taken]

    @property
    def _slots(self) -> set[str]:
        return {str(device["slot"]) for device in self.devices}

    @property
    def gpus(self) -> int:
        return sum(slot.startswith("cuda:") for slot in self._slots)

    @property
    def _apple(self) -> bool:
        return "mps" in self._slots

    def as_dict(self) -> dict[str, Any]:
        """For pages and programs; a slot that is in use stands there though no host reported it."""
        reported = {device["slot"]: device for device in self.devices}
        missing = {slot: {"slot": slot, "name": "", "memory": None} for slot in self.taken}
        devices = [
            {**device, "run": _run_of(self.taken.get(slot))}
            for slot, device in ({**missing, **reported}).items()
        ]
        facts = {"name": self.name, "here": self.here, "seen": self.seen, "age": self.age}
        facts["clock"] = clock.wrong(self.ahead) or None
        return facts | {"devices": sorted(devices, key=lambda device: str(device["slot"]))}


class HostBeat:
    """Tells the others that this host is there, where hosts share the database; with its devices,
    unless a cluster's are taken instead."""

    def __init__(self, engine: Engine, data_dir: DataDir, *, takes_runs: bool = True) -> None:
        self._engine = engine
        self._shared = bool(data_dir.host)
        self._takes_runs = takes_runs
        self._reported_at: float | None = None
        self._wrong = False

    def turn(self) -> None:
        now = time.monotonic()
        if not self._shared or (
            self._reported_at is not None and now - self._reported_at < TELL_EVERY
        ):
            return
        devices = own_devices() if self._takes_runs else []
        ahead = clock.ahead(self._engine)
        tell_host(self._engine, boot_id(), host_name(), devices, ahead)
        self._reported_at = now
        wrong = clock.wrong(ahead)
        if wrong and not self._wrong:
            log.warning("the clock of this host is %s: set it (ntp, chrony)", wrong)
        self._wrong = bool(wrong)


def own_devices() -> list[dict[str, Any]]:
    """Of this host: slot, name and memory in bytes; of a GPU as its driver tells, else empty."""
    return [dict(device) for device in _devices(gpu_count())]


def all_hosts(engine: Engine) -> list[HostDevices]:
    """This host first, and the others that were heard of within a day, by their names; of one that
    was started anew, only as it is now. Where nobody tells, as on one machine, this host alone."""
    here, taken = boot_id(), taken_slots(engine)
    hosts = [one for one in read_hosts(engine) if one.age < FORGOTTEN_AFTER]
    seen = {one.name for one in hosts if one.age < LOST_AFTER}
    kept = [one for one in hosts if one.age < LOST_AFTER or one.name not in seen]
    if not seen:
        kept = [SeenHost(here, host_name(), own_devices(), 0.0), *kept]
    return [
        HostDevices(
            *(one.name, one.boot, one.boot == here, one.age, one.devices),
            {slot.slot: slot for slot in taken if slot.pool == one.boot},
            one.ahead,
        )
        for one in sorted(kept, key=lambda one: one.boot != here)
    ]


def serving_hosts(engine: Engine) -> list[HostDevices]:
    """The hosts that take runs now, this one first."""
    return [host for host in all_hosts(engine) if host.seen]


def left_to_others(hosts: Iterable[HostDevices], device: str, count: int) -> bool:
    """Whether a run wants more GPUs than this host has, and one of the others that take runs has
    them; where none has, any host refuses it in words."""
    kind, _, single = device.partition(":")
    count = count if kind == "cuda" or (kind == "auto" and count > 1) else 0
    needed = int(single) + 1 if single else count
    if gpu_count() >= needed:
        return False
    return any(host.gpus >= needed for host in hosts)


@functools.cache
def _devices(gpus: int) -> tuple[dict[str, Any], ...]:
    """Asked once: a driver may take long to answer."""
    if gpus:
        by_number = {gpu.number: gpu for gpu in ask_driver().gpus}
        named = ((i, by_number.get(i)) for i in range(gpus))
        return tuple(
            {"slot": f"cuda:{i}", "name": gpu.name if gpu else "", "memory": gpu and gpu.total}
            for i, gpu in named
        )
    slot = "mps" if slots.APPLE else "cpu"
    return ({"slot": slot, "name": "", "memory": psutil.virtual_memory().total},)


def _run_of(taken: TakenSlot | None) -> dict[str, str] | None:
    if taken is None:
        return None
    return {"id": taken.run_id, "name": taken.run_name, "started_by": taken.started_by}
