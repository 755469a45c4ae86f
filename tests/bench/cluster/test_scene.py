"""Whether the bench sees a run that is done twice, or ends without a cause."""

from pathlib import Path

from sqlalchemy import Engine

from bench.cluster.scene import Scene, twice
from opd.config.run import parse
from opd.errors import ErrorKind
from opd.types import StepEvent
from storage.queue import jobs
from storage.queue.failure import Failure
from storage.write.records import RunWriter
from tests.support.hosts.network import HostNetwork
from tests.support.stored_runs import me


def test_what_ends_otherwise_than_once_is_seen(engine: Engine, tmp_path: Path) -> None:
    def unused(_: str) -> None:
        raise AssertionError

    network = HostNetwork(tmp_path, ["one"])
    scene = Scene(network, engine, unused, unused)  # type: ignore[arg-type]
    lost = Failure(ErrorKind.LOST, "no heartbeat")
    ends = {"finished": None, "interrupted": lost, "failed": lost}

    def ended(status: str, steps: int, attempts: int = 1) -> str:
        run_id = jobs.create_run(engine, parse({}))
        for attempt in range(1, attempts + 1):
            assert jobs.claim(engine, run_id, "cpu", me()) == attempt
            writer = RunWriter(engine, run_id, attempt)
            writer.truncate_after(0)
            for number in range(1, steps + 1):
                writer.step(StepEvent(number, {}, 0, 0.0, {}, []), lambda _: {})
            jobs.finish(engine, run_id, attempt, status, ends[status])  # type: ignore[arg-type]
            if attempt < attempts:
                jobs.requeue(engine, run_id)
        scene.runs.append(run_id)
        return run_id

    ended("finished", 2)
    ended("interrupted", 1)
    assert twice(scene) == []
    wrong = [ended("finished", 1), ended("failed", 1), ended("interrupted", 2, attempts=2)]
    assert [text.partition(":")[0] for text in twice(scene)] == wrong
