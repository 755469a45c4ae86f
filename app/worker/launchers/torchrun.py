"""A run on several machines: torchrun starts its processes on each of them."""

import sys
from collections.abc import Sequence

from app.worker.launchers.launcher import Wanted

NO_PYTHON = "--no-python"


def on_several_nodes(command: Sequence[str], wanted: Wanted, key: str) -> list[str]:
    """What is started once on each machine; whoever starts it adds `--rdzv-endpoint`, the address
    at which they meet, in front of `--no-python`."""
    agent = (sys.executable, "-P", "-m", "torch.distributed.run")
    sizes = (f"--nnodes={wanted.nodes}", f"--nproc-per-node={wanted.processes}")
    meeting = ("--rdzv-backend=c10d", f"--rdzv-id={key}", "--max-restarts=0")
    return [*agent, *sizes, *meeting, NO_PYTHON, *command]
