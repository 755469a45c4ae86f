"""A GPU has one run, or what answers a question until a run comes. The GPUs here are made up."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from app.worker.devices import holds
from app.worker.devices.holds import hold_device, in_use_by, wait_for_device
from opd.config.run import parse
from opd.errors import ErrorKind, UserError
from storage import locks
from storage.data_dir import DataDir
from storage.queue import jobs
from tests.support.devices.fake_gpus import FakeCuda
from tests.support.stored_runs import me

Gpus = Callable[[int], None]


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    return DataDir(tmp_path)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    def show(count: int) -> None:
        FakeCuda(count=count).install(monkeypatch)
        monkeypatch.setattr(holds, "gpu_count", lambda: count)

    return show


def training(engine: Engine, slot: str) -> str:
    run_id = jobs.create_run(engine, parse({}))
    assert jobs.claim(engine, run_id, slot, me()) is not None
    return run_id


def refusal(engine: Engine, data_dir: DataDir, device: str = "auto") -> UserError:
    with pytest.raises(UserError) as caught:
        hold_device(lambda: engine, data_dir, parse({"device": device}))
    assert caught.value.kind == ErrorKind.DEVICE_BUSY
    return caught.value


def test_a_processor_is_shared(engine: Engine, data_dir: DataDir) -> None:
    training(engine, "cpu")
    held = hold_device(pytest.fail, data_dir, parse({"device": "cpu"}))
    assert held.slot is None and not held.is_awaited(engine)
    wait_for_device(data_dir, "cpu", pytest.fail, pytest.fail)


def test_a_gpu_with_a_run_is_refused_by_the_run_s_name(
    engine: Engine, data_dir: DataDir, gpus: Gpus
) -> None:
    gpus(1)
    run_id = training(engine, "cuda:0")
    for device in ("auto", "cuda", "cuda:0"):
        assert f"cuda:0: {run_id}" in refusal(engine, data_dir, device).message
    assert not locks.held(data_dir.device_lock("cuda:0")), "given back"


def test_the_first_gpu_without_a_run_is_taken(
    engine: Engine, data_dir: DataDir, gpus: Gpus
) -> None:
    gpus(2)
    training(engine, "cuda:0")
    held = hold_device(lambda: engine, data_dir, parse({}))
    assert (held.slot, held.config.device) == ("cuda:1", "cuda:1")
    assert "another request" in refusal(engine, data_dir, "cuda:1").message
    assert not held.is_awaited(engine)
    training(engine, "cuda:1")
    assert held.is_awaited(engine)
    held.close()


def test_a_run_waits_until_the_gpu_is_given_back(
    engine: Engine, data_dir: DataDir, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(1)
    held = hold_device(lambda: engine, data_dir, parse({}))
    said: list[str] = []
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            held.close()

    monkeypatch.setattr(holds.time, "sleep", sleep)
    wait_for_device(data_dir, "cuda:0", lambda: False, said.append)
    assert len(waited) == 3 and said == ["waiting for cuda:0, where models answer a request"]


def test_a_cancelled_run_waits_no_longer(engine: Engine, data_dir: DataDir, gpus: Gpus) -> None:
    gpus(1)
    held = hold_device(lambda: engine, data_dir, parse({}))
    wait_for_device(data_dir, "cuda:0", lambda: True, pytest.fail)
    held.close()


def test_a_holder_that_is_killed_holds_no_longer(data_dir: DataDir) -> None:
    path = data_dir.device_lock("cuda:0")
    path.parent.mkdir(parents=True)
    code = "import sys\nfrom pathlib import Path\nfrom storage import locks\n"
    code += "held = locks.take(Path(sys.argv[1]))\nprint('held', flush=True)\ninput()"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None and child.stdout.readline() == b"held\n"
    assert locks.held(path)
    child.kill()
    child.communicate()
    wait_for_device(data_dir, "cuda:0", lambda: False, pytest.fail)


def test_what_a_queued_run_waits_for(engine: Engine, gpus: Gpus) -> None:
    gpus(2)
    first = training(engine, "cuda:0")
    assert in_use_by(engine, "auto") == {}
    assert in_use_by(engine, "cuda:0") == {"cuda:0": first}
    second = training(engine, "cuda:1")
    assert in_use_by(engine, "auto") == {"cuda:0": first, "cuda:1": second}
    assert in_use_by(engine, "cpu") == {}
    # A run of two GPUs waits for either.
    assert in_use_by(engine, "auto", 2) == {"cuda:0": first, "cuda:1": second}
    gpus(3)
    assert in_use_by(engine, "auto", 2) == {"cuda:0": first, "cuda:1": second}
    assert in_use_by(engine, "auto", 1) == {}
