"""Several connected processes on this machine, as forks of the test."""

import multiprocessing
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from opd.ranks.group import Ranks
from opd.ranks.processes import ProcessRanks

LIMIT = 120  # seconds


def on_ranks(
    size: int, work: Callable[[Ranks], Any], folder: Path, *, answers: int | None = None
) -> list[Any]:
    """What `work` returns on each rank (the first `answers`), or the exception that it raised."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=_one, args=(rank, size, work, folder)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(LIMIT)
        assert not process.is_alive(), (folder / "log").read_text()
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(answers or size)]


def _one(rank: int, size: int, work: Callable[[Ranks], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    ranks = ProcessRanks(
        rank, size, dist.FileStore(str(folder / "store"), size), torch.device("cpu")
    )
    try:
        result = work(ranks)
    except Exception as error:  # noqa: BLE001 - the test looks at it
        result = error
        with (folder / "log").open("a") as log:
            traceback.print_exc(file=log)
    ranks.attend()
    ranks.leave()
    (folder / str(rank)).write_bytes(pickle.dumps(result))
