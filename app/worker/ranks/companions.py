"""The other processes of a run, as its first one sees them: started here, or by torchrun."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from app.worker import process
from app.worker.ranks.order import LOOK_EVERY, ORDER, Order, TorchrunPlace, here, wait_for_key
from app.worker.ranks.scratch import Scratch, sweep
from opd.errors import ErrorKind, UserError
from opd.ranks.group import ALONE, LostProcessError, Ranks
from storage.data_dir import RunDir

FOLLOWER = process.program("app.worker.ranks.follower")
REAPED_WITHIN = 5.0  # seconds from a lost connection to the end of its process
PATIENCE = 20.0  # seconds in which they may come to an end by themselves
INTERFACE = "lo0" if sys.platform == "darwin" else "lo"


class Companions:
    """`gather()` calls them together; on leaving the block they end."""

    def __init__(self, folder: RunDir) -> None:
        self._folder = folder
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._scratch: Scratch | None = None
        self.ranks: Ranks = ALONE

    def __enter__(self) -> "Companions":
        return self

    def __exit__(self, *_: object) -> None:
        self.ranks.leave()
        for child in self._children.values():
            try:
                child.wait(0 if self.ranks is ALONE else PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._scratch is not None:
            self._scratch.close()

    def gather(self, order: Order, device: str, stop: Callable[[], bool]) -> Ranks:
        """This process among those of the run, once all are there; ALONE where it is the only one,
        and when asked to stop. Raises UserError where one of them ends before."""
        size = order.config["devices"]
        if size == 1:
            return ALONE
        from opd.devices.choice import pick_device  # noqa: PLC0415 - loads torch
        from opd.ranks.processes import ProcessRanks, file_store, torchrun_store  # noqa: PLC0415

        if TorchrunPlace.here() is not None:
            store = torchrun_store(0, size)
        else:
            sweep()
            self._scratch = Scratch()
            store = file_store(self._scratch.store, size)
            os.environ.setdefault("GLOO_SOCKET_IFNAME", INTERFACE)
            for rank in range(1, size):
                self._children[rank] = self._start(rank, size)

        def look() -> None:
            for rank, child in self._children.items():
                if child.poll() is not None:
                    raise UserError(self._how_it_ended(rank), where="devices", kind=ErrorKind.ERROR)

        store.set(ORDER, order.text())
        for rank in range(1, size):
            if not wait_for_key(store, here(rank), look, stop):
                return ALONE
        self.ranks = ProcessRanks(0, size, store, pick_device(device))
        return self.ranks

    def explained(self, error: UserError) -> UserError:
        """With how a process ended that is there no more. A lost connection is known sooner than
        that its process has ended."""
        until = time.monotonic() + (REAPED_WITHIN if isinstance(error, LostProcessError) else 0.0)
        while not (ended := self._ended()) and self._children and time.monotonic() < until:
            time.sleep(LOOK_EVERY)
        if not ended:
            return error
        text = "; ".join(self._how_it_ended(rank) for rank in ended)
        return UserError(f"{text}: {error.message}", where=error.where, kind=error.kind)

    def _ended(self) -> list[int]:
        return [r for r, c in self._children.items() if c.poll() not in (None, 0)]

    def _how_it_ended(self, rank: int) -> str:
        child = self._children[rank]
        code = child.wait()
        lines = self._log(rank).read_text(errors="replace").splitlines()
        said = f" ({lines[-1].strip()[:300]})" if lines else ""
        cause = process.cause_of_exit(code, whose="")
        return f"process {rank + 1} of {len(self._children) + 1} {cause}{said}"

    def _log(self, rank: int) -> Path:
        return self._folder.path / f"process-{rank + 1}.txt"

    def _start(self, rank: int, size: int) -> subprocess.Popen[bytes]:
        assert self._scratch is not None
        numbers = ("--rank", str(rank), "--size", str(size))
        command = [*FOLLOWER, "--store", str(self._scratch.store), *numbers]
        with self._log(rank).open("wb") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
