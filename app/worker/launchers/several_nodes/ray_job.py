"""Ray's job for a run on several nodes: holds a part of each, has torchrun run there, and ends when
it has ended on all of them.

    python -P opd_launcher.py app.worker.launchers.several_nodes.ray_job JSON

Ray starts it on its head, where it takes nothing.
"""

import json
import logging
import math
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from app.worker.launchers.launcher import JobNeeds
from app.worker.launchers.several_nodes.torchrun import on_several_nodes
from app.worker.logs import start_log
from app.worker.process import program

log = logging.getLogger(__name__)
PROGRAM = program("app.worker.launchers.several_nodes.ray_job")
LOOK_EVERY = 0.5  # seconds
ENDS_BY_ITSELF = 10.0  # seconds for the processes that have lost another, to say so
KILLED_AFTER = 45.0  # seconds from SIGTERM; torchrun waits for thirty


@dataclass(frozen=True)
class NodesJob:
    """`resources`: of each node, in Ray's words; `log`: what all of them add to."""

    key: str
    command: Sequence[str]
    needs: JobNeeds
    resources: dict[str, float]
    log: str

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> "NodesJob":
        fields = json.loads(text)
        return cls(**{**fields, "needs": JobNeeds(**fields["needs"])})


class HeldNodes(Protocol):
    """A part of each of several nodes, held for one job. Nodes are counted from 0."""

    def wait(self, seconds: float) -> bool:
        """Whether all are held by now."""

    def start(self, job: NodesJob) -> None:
        """Torchrun on all."""

    def ended(self, seconds: float) -> dict[int, int]:
        """Nodes on which it has ended since the last question, with their exit codes; waits for the
        first of them, but no longer than that."""

    def stop(self) -> None:
        """SIGTERM to torchrun, on all."""


class NodeProcess:
    """An actor of Ray's on each node, pickled with its code: only what Python brings along."""

    def __init__(self) -> None:
        self.child: Any = None
        self.stopped = False

    def address(self) -> str:
        """Where the processes may meet, on this node."""
        import socket  # noqa: PLC0415

        import ray  # noqa: PLC0415

        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def run(self, command: str, path: str) -> int:
        with open(path, "ab") as output:
            self.child = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        if self.stopped:
            self.child.terminate()
        return int(self.child.wait())

    def stop(self) -> None:
        self.stopped = True
        if self.child is not None:
            self.child.terminate()


class RayNodes:
    def __init__(self, job: NodesJob) -> None:
        import ray  # noqa: PLC0415 - on Ray's nodes only
        from ray import cloudpickle  # noqa: PLC0415
        from ray.util.placement_group import placement_group  # noqa: PLC0415

        self._ray = ray
        cloudpickle.register_pickle_by_value(sys.modules[__name__])
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
        count = job.needs.nodes
        labels = [job.needs.labels] * count if job.needs.labels else None
        bundles = [job.resources] * count
        self._group = placement_group(bundles, "STRICT_SPREAD", bundle_label_selector=labels)
        self._actors: list[Any] = []
        self._running: dict[Any, int] = {}  # node by what stands for its exit code

    def wait(self, seconds: float) -> bool:
        return bool(self._group.wait(seconds))

    def start(self, job: NodesJob) -> None:
        from ray.util.scheduling_strategies import (  # noqa: PLC0415
            PlacementGroupSchedulingStrategy,
        )

        actor = self._ray.remote(NodeProcess)
        takes = {"num_cpus": job.resources["CPU"], "num_gpus": job.resources.get("GPU", 0)}
        takes["memory"] = job.resources.get("memory", 0)
        for node in range(job.needs.nodes):
            where = PlacementGroupSchedulingStrategy(self._group, node)
            options = {"max_concurrency": 2, "scheduling_strategy": where, **takes}
            self._actors.append(actor.options(**options).remote())
        address = self._ray.get(self._actors[0].address.remote())
        for node, held in enumerate(self._actors):
            meets = f"--rdzv-conf=is_host={int(node == 0)}"
            command = on_several_nodes(job.command, job.needs, job.key, address, meets)
            self._running[held.run.remote(command, job.log)] = node

    def ended(self, seconds: float) -> dict[int, int]:
        done, _ = self._ray.wait([*self._running], timeout=seconds)
        return {self._running.pop(one): self._exit_code(one) for one in done}

    def stop(self) -> None:
        for actor in self._actors:
            actor.stop.remote()

    def _exit_code(self, one: Any) -> int:
        try:
            return int(self._ray.get(one))
        except self._ray.exceptions.RayError as error:
            log.error("%s", str(error).strip().splitlines()[0])
            return 1


def follow(nodes: HeldNodes, job: NodesJob, stop: threading.Event) -> int:
    """Until it has ended on all nodes; they are stopped when `stop` is set, and where one has ended
    otherwise than well. 0, or the first other exit code."""
    while not nodes.wait(LOOK_EVERY):
        if stop.is_set():
            return 0
    nodes.start(job)
    left, code = job.needs.nodes, 0
    stop_at = kill_at = math.inf
    while left and time.monotonic() < kill_at:
        codes = nodes.ended(LOOK_EVERY)
        left -= len(codes)
        if code == 0 and (code := next(filter(None, codes.values()), 0)):
            stop_at = time.monotonic() + ENDS_BY_ITSELF
        if kill_at == math.inf and (stop.is_set() or time.monotonic() >= stop_at):
            nodes.stop()
            kill_at = time.monotonic() + KILLED_AFTER
    return code if code >= 0 else 128 - code


def main() -> int:
    start_log()
    job, stop = NodesJob.parse(sys.argv[1]), threading.Event()
    nodes = RayNodes(job)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    return follow(nodes, job, stop)


if __name__ == "__main__":
    sys.exit(main())
