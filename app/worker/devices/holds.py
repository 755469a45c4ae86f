"""Who has a GPU: a run in its slot, or else, for as long as no run wants it, whatever loads models
for a page or a command, by a lock file of the slot.

Both sides first say so and then look: a run claims its slot in the database and waits until the
lock is free; anything else takes the lock and gives it back where a run has the slot. So nothing
that answers a question fills the memory of a run's GPU. A processor is shared.
"""

import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from app.worker.devices import slots
from app.worker.owners.place import boot_id
from opd.config.run import RunConfig
from opd.devices.gpus import gpu_count
from opd.errors import ErrorKind, UserError
from storage import locks
from storage.data_dir import DataDir
from storage.queue import jobs

LOOK_EVERY = 0.2
TRIES = 3  # whoever looks whether a lock is held has it for a moment


@dataclass(frozen=True)
class DeviceHold:
    """A device that models may be loaded on, until it is closed. `slot` is None for a processor."""

    config: RunConfig  # with the device that was found
    slot: str | None = None
    lock: locks.Lock | None = None

    def is_awaited(self, engine: Engine) -> bool:
        """Whether a run waits for it."""
        return self.slot is not None and _run_on(engine, self.slot) is not None

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()


def hold_device(database: Callable[[], Engine], data_dir: DataDir, config: RunConfig) -> DeviceHold:
    """A device of the configuration that no run has. The database is asked for a GPU only.

    Raises UserError of kind "device busy" where there is none, and for a device that torch has not.
    """
    from opd.devices.choice import pick_device  # noqa: PLC0415 - loads torch

    if pick_device(config.device).type == "cpu":
        return DeviceHold(config)
    engine, busy = database(), []
    for slot in slots.candidates(config.device, gpu_count()):
        lock = _take(data_dir, slot)
        if lock is None:
            busy.append(f"{slot}: models of another request")
            continue
        run = _run_on(engine, slot)
        if run is None:
            named = config.device if slot in ("cpu", "mps") else slot
            return DeviceHold(config.model_copy(update={"device": named}), slot, lock)
        lock.close()
        busy.append(f"{slot}: {run}")
    raise UserError(
        f"the GPU is busy ({', '.join(busy)}), and its memory belongs to what is there; wait for "
        "its end, or use the processor (cpu)",
        where="device",
        kind=ErrorKind.DEVICE_BUSY,
    )


def wait_for_device(
    data_dir: DataDir, slot: str, stop: Callable[[], bool], say: Callable[[str], None]
) -> None:
    """Returns once nothing but the run that has the slot holds it, or when asked to stop."""
    for one in slots.each([slot]):
        said = False
        while one != "cpu" and locks.held(data_dir.device_lock(one)) and not stop():
            if not said:
                say(f"waiting for {one}, where models answer a request")
                said = True
            time.sleep(LOOK_EVERY)


def in_use_by(engine: Engine, device: str, count: int = 1) -> dict[str, str]:
    """Slot → run, of the slots that a run with `count` of this device may take; empty while so many
    are free."""
    holders = taken_here(engine)
    if slots.choose(device, holders, gpu_count(), count=count) is not None:
        return {}
    return {s: holders[s] for s in slots.candidates(device, gpu_count()) if s in holders}


def taken_here(engine: Engine) -> dict[str, str]:
    """This machine's slots that runs have, each with its run."""
    here = boot_id()
    ours = [run for run in jobs.running(engine) if run["pool"] == here]
    return {slot: str(run["id"]) for run in ours for slot in slots.each([run["slot"]])}


def give_back() -> None:
    """Gives back the memory of models that nothing refers to any more."""
    gc.collect()
    if "torch" in sys.modules:
        from opd.devices.choice import give_back_memory  # noqa: PLC0415 - loads torch

        give_back_memory()


def _take(data_dir: DataDir, slot: str) -> locks.Lock | None:
    path = data_dir.device_lock(slot)
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(TRIES):
        lock = locks.take(path)
        if lock is not None:
            return lock
        time.sleep(0.02)
    return None


def _run_on(engine: Engine, slot: str) -> str | None:
    """The run that has the slot."""
    return taken_here(engine).get(slot)
