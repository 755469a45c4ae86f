"""A run on several machines: torchrun starts its processes on each of them."""

import shlex
import sys
from collections.abc import Sequence

from app.worker.launchers.launcher import Wanted


def on_several_nodes(command: Sequence[str], wanted: Wanted, key: str, address: str) -> str:
    """For a shell on each machine, once; `address`, which is for that shell too, is where the
    processes meet."""
    agent = (sys.executable, "-P", "-m", "torch.distributed.run")
    sizes = (f"--nnodes={wanted.nodes}", f"--nproc-per-node={wanted.processes}")
    meeting = ("--rdzv-backend=c10d", f"--rdzv-id={key}", "--max-restarts=0")
    start = shlex.join([*agent, *sizes, *meeting])
    return f"{start} --rdzv-endpoint={address} --no-python {shlex.join(command)}"
