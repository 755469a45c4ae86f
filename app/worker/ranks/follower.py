"""A process that trains along with a run's first one, and stores nothing.

    python -m app.worker.ranks.follower --store FILE --rank 1 --size 2

`torchrun` starts `opd train` in every process instead; all but the first come here.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from app.worker.attempts.training import check_device, training_factory
from app.worker.devices.slots import on_slot
from app.worker.logs import start_log
from app.worker.ranks.order import (
    ORDER,
    Order,
    TorchrunPlace,
    check_one_machine,
    here,
    wait_for_key,
)
from app.worker.ranks.scratch import remove_abandoned
from opd.config.run import parse
from opd.errors import UserError

log = logging.getLogger(__name__)


def follow_torchrun(torchrun: TorchrunPlace, *, anywhere: bool = False) -> int:
    """The exit code of a process of torchrun's that is not the first; `anywhere`: on whichever
    machine, as a cluster has started it."""
    from opd.ranks.processes import torchrun_store  # noqa: PLC0415 - loads torch

    start_log()
    try:
        if not anywhere:
            check_one_machine(torchrun)
        store = torchrun_store(torchrun.rank, torchrun.size)
        return follow(store, torchrun.rank, torchrun.size, partial(slot_on, torchrun))
    except UserError as error:
        log.error("%s", error)
        return 1


def slot_on(torchrun: TorchrunPlace, order: Order) -> str:
    """The device of a process that torchrun has started."""
    return order.slots[torchrun.local_rank]


def follow(store: Any, rank: int, size: int, slot_of: Callable[[Order], str]) -> int:
    """Trains along until the first process ends the run; 1 where it could not."""
    from opd.devices.choice import pick_device  # noqa: PLC0415 - loads torch
    from opd.ranks.processes import ProcessRanks  # noqa: PLC0415

    make = training_factory()
    parent = os.getppid()

    def look() -> None:
        if os.getppid() != parent:
            raise UserError("the run's first process has ended", where="devices")

    store.set(here(rank), str(os.getpid()))
    wait_for_key(store, ORDER, look)
    order = Order.parse(store.get(ORDER).decode())
    # From here on the first process says when to end: a Ctrl-C reaches all of them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    config = on_slot(parse(order.config), slot_of(order))
    check_device(config)
    ranks = ProcessRanks(rank, size, store, pick_device(config.device))
    try:
        training = make(
            config,
            order.checkpoints,
            stop=lambda: False,
            resume_from=order.resume_from,
            say=lambda text: log.info("%s", text),
            moment=order.moment,
            earlier=order.earlier,
            ranks=ranks,
            serve=lambda _: None,
            serve_teacher=lambda _: None,
        )
        for _ in training.events():
            pass
    finally:
        ranks.attend()  # the first process may save yet
        ranks.leave()
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="app.worker.ranks.follower")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    options = parser.parse_args(arguments)
    start_log()
    from opd.ranks.processes import file_store  # noqa: PLC0415 - loads torch

    store = file_store(options.store, options.size)
    try:
        return follow(store, options.rank, options.size, lambda o: o.slots[options.rank])
    except UserError as error:
        log.error("%s", error)
        return 1
    finally:
        remove_abandoned(options.store.parent)


if __name__ == "__main__":
    sys.exit(main())
