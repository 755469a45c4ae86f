"""A run on several machines: torchrun starts its processes on each of them, and takes them along
when it dies.

    python -P opd_launcher.py app.worker.launchers.several_nodes.torchrun ARGUMENTS…
"""

import shlex
import signal
import sys
from collections.abc import Sequence

from app.worker.launchers.launcher import JobNeeds
from app.worker.process import end_with_parent, program

TORCHRUN = program("app.worker.launchers.several_nodes.torchrun")


def on_several_nodes(
    command: Sequence[str], needs: JobNeeds, key: str, address: str, *options: str
) -> str:
    """For a shell on each machine, once; `address`, which is for that shell too, is where the
    processes meet."""
    sizes = (f"--nnodes={needs.nodes}", f"--nproc-per-node={needs.processes}")
    meeting = ("--rdzv-backend=c10d", f"--rdzv-id={key}", "--max-restarts=0")
    start = shlex.join([*TORCHRUN, *sizes, *meeting, *options])
    return f"{start} --rdzv-endpoint={address} --no-python {shlex.join(command)}"


def main() -> int:
    end_with_parent(signal.SIGTERM)
    from torch.distributed.run import main as torchrun  # noqa: PLC0415 - on nodes only

    torchrun(sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
