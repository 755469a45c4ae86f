"""What the first process of a run tells the others, who open no database."""

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from app.worker.devices.slots import each
from opd.config.run import RunConfig
from opd.errors import UserError
from opd.types import EarlierAttempts, Score

ORDER = "order"
LOOK_EVERY = 0.1


@dataclass(frozen=True)
class Order:
    """A run as every one of its processes has to know it.

    `slots` are the devices of the processes on the first one's machine.
    """

    config: dict[str, Any]
    checkpoints: Path
    resume_from: Path | None
    moment: datetime
    earlier: EarlierAttempts
    slots: Sequence[str]

    def text(self) -> str:
        fields = {
            **asdict(self),
            "checkpoints": str(self.checkpoints),
            "resume_from": self.resume_from and str(self.resume_from),
            "moment": self.moment.isoformat(),
        }
        return json.dumps(fields)

    @classmethod
    def parse(cls, text: str) -> "Order":
        fields = json.loads(text)
        earlier = fields["earlier"]
        return cls(
            config=fields["config"],
            checkpoints=Path(fields["checkpoints"]),
            resume_from=fields["resume_from"] and Path(fields["resume_from"]),
            moment=datetime.fromisoformat(fields["moment"]),
            earlier=EarlierAttempts(
                earlier["seconds"],
                {
                    int(step): [Score(**score) for score in scores]
                    for step, scores in earlier["evaluations"].items()
                },
            ),
            slots=fields["slots"],
        )


@dataclass(frozen=True)
class TorchrunPlace:
    """Which of torchrun's processes this one is."""

    rank: int
    size: int
    local_rank: int
    local_size: int

    @classmethod
    def here(cls) -> "TorchrunPlace | None":
        """None for a process that torchrun did not start."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*(int(os.environ[name]) for name in names))


def process_slots(config: RunConfig, slot: str) -> list[str]:
    """The device of each of the run's processes on this machine, of those that it has.

    Raises UserError where torchrun started another number of processes than the configuration
    asks for, and where there are fewer GPUs.
    """
    torchrun = TorchrunPlace.here()
    if torchrun is not None and torchrun.size != config.devices:
        started = "1 process" if torchrun.size == 1 else f"{torchrun.size} processes"
        raise UserError(
            f"is {config.devices}, and torchrun has started {started}: make them equal, or leave "
            "devices out",
            where="devices",
        )
    count = config.devices if torchrun is None else torchrun.local_size
    slots = each([slot])
    if slots[0] in ("cpu", "mps"):
        return slots * count
    if len(slots) < count:
        raise UserError(
            f"{count} asked for, but there {'is' if len(slots) == 1 else 'are'} {len(slots)} CUDA "
            f"device{'' if len(slots) == 1 else 's'} here; lower devices, or set device to cpu",
            where="devices",
        )
    return slots


def as_torchrun_started(config: RunConfig) -> RunConfig:
    """The configuration with as many devices as torchrun has started processes, where it says no
    other number. Raises UserError where it does, and for processes on several machines."""
    torchrun = TorchrunPlace.here()
    if torchrun is not None:
        check_one_machine(torchrun)
    if torchrun is None or config.devices not in (1, torchrun.size):
        process_slots(config, "cpu")
        return config
    return config.model_copy(update={"devices": torchrun.size})


def check_one_machine(torchrun: TorchrunPlace) -> None:
    """Raises UserError where torchrun has started processes on several machines."""
    if torchrun.local_size != torchrun.size:
        raise UserError(
            f"torchrun has started {torchrun.size} processes, {torchrun.local_size} of them on "
            "this machine: all of a run's processes are on one (start it with --nnodes 1)",
            where="devices",
        )


def here(rank: int) -> str:
    """The key by which a process says that it is there."""
    return f"here/{rank}"


def wait_for_key(
    store: Any, key: str, look: Callable[[], None], stop: Callable[[], bool] = lambda: False
) -> bool:
    """Until the store has it, or when asked to stop; whether it has. `look` may raise what speaks
    against waiting longer."""
    while not store.check([key]):
        if stop():
            return False
        look()
        time.sleep(LOOK_EVERY)
    return True
