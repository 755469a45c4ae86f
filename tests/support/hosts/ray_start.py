"""`ray start` for a busy machine: with more patience than Ray has, and ahead of other processes: a
raylet waits fifteen seconds for its agents and dies. It leaves out Ray's autoscaler, its client's
server, its log monitor and what of its dashboard is not the Jobs API.

    python ray_start.py ARGUMENTS…
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from ray._private import services
from ray._private.node import Node
from ray.scripts import scripts

MODULES = "--modules-to-load=JobHead,NodeHead,UsageStatsHead"
PATIENCE = 240.0  # seconds, in the place of 30
AUTOGROUP = Path("/proc/self/autogroup")
LEFT_OUT = ("start_monitor", "start_ray_client_server", "start_log_monitor")
start_process, get_node = services.start_ray_process, services.get_node
processes = []


def started(command: list[str], process_type: str, *more: Any, **options: Any) -> Any:
    modules = [MODULES] if "dashboard.py" in " ".join(command) else []
    info = start_process([*command, *modules], process_type, *more, **options)
    processes.append(info.process)
    return info


def awaited_node(*which: Any) -> Any:
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return get_node(*which)
        except RuntimeError:
            dead = any(process.poll() is not None for process in processes)
            if dead or time.monotonic() > until:
                raise


for name in LEFT_OUT:
    setattr(Node, name, lambda _node: None)
services.start_ray_process, services.get_node = started, awaited_node
if os.getsid(0) != os.getpid():
    os.setsid()  # what the kernel weighs against other sessions, it weighs together
with suppress(OSError):
    os.nice(-19)
    AUTOGROUP.write_text("-19")
sys.argv = ["ray", "start", *sys.argv[1:]]
scripts.main()
