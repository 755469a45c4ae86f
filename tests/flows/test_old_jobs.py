"""A job that the first version started is found, stopped and resumed by this one.

The module on its command line lay in `opd` then; a job is known by its process's id, start
and boot, and by the mark in its environment, never by how it was called.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.worker import recovery
from app.worker.owners.place import Place
from storage.data_dir import DataDir
from storage.queue import jobs
from tests.support.fake_training import ROOT, SCRIPT
from tests.support.studio import Studio

MODULE = ".".join(("opd", "worker", "job"))  # a name that is no module of ours any more
OLD = f"""
import runpy, sys
for name in [n for n in sys.modules if n.partition(".")[0] == "opd"]:
    del sys.modules[name]
sys.path[:0] = [{str(ROOT)!r}]
sys.argv = [{str(SCRIPT)!r}, "job", *sys.argv[1:]]
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    made = Studio(tmp_path / "data")
    yield made
    made.close()


def start_old_job(studio: Studio, folder: Path) -> str:
    """A job at its second step or later, called as the first version called it."""
    package = folder / "old" / "opd" / "worker"
    package.mkdir(parents=True)
    for part in (package.parent, package):
        (part / "__init__.py").touch()
    (package / "job.py").write_text(OLD)
    run_id = studio.queue("slow", steps=5000)
    command = [sys.executable, "-m", MODULE, run_id, "--data-dir", str(studio.data_dir)]
    log = DataDir(studio.data_dir).run(run_id).log
    log.parent.mkdir(parents=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "--slot", "cpu"],
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder / "old",
            env=os.environ | {"PYTHONPATH": str(folder / "old")},
            start_new_session=True,
        )
    studio.started.append(process)
    studio.wait_step(run_id, 2)
    assert psutil.Process(studio.pid(run_id)).cmdline()[1:4] == ["-m", MODULE, run_id]
    return run_id


def test_it_is_found_cancelled_and_resumed(studio: Studio, tmp_path: Path) -> None:
    run_id = start_old_job(studio, tmp_path)
    pid = studio.pid(run_id)
    studio.supervisor()
    step = studio.run(run_id)["step"]
    studio.wait(lambda: studio.run(run_id)["step"] > step + 10)  # it was left alone
    assert studio.pid(run_id) == pid

    out, err = studio.start("cli", "cancel", run_id).communicate(timeout=60)
    assert out.strip() == f"{run_id} cancelled", err
    studio.wait(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie")

    stopped = studio.run(run_id)["step"]
    jobs.requeue(studio.engine, run_id)
    studio.wait(lambda: studio.status(run_id) == "running")
    studio.wait_step(run_id, stopped + 1)
    assert studio.run(run_id)["attempt"] == 2
    assert f"attempt 2, from step {stopped}" in DataDir(studio.data_dir).run(run_id).log.read_text()


def test_its_death_is_seen_and_the_run_resumed(studio: Studio, tmp_path: Path) -> None:
    run_id = start_old_job(studio, tmp_path)
    [job] = recovery.running(studio.engine)
    assert studio.pid(run_id) in job.family(Place.of(DataDir(studio.data_dir)))
    os.kill(studio.pid(run_id), signal.SIGKILL)
    studio.started[-1].wait(10)
    resumed = studio.start("cli", "resume", run_id)
    studio.wait(lambda: studio.run(run_id)["attempt"] == 2)
    assert studio.status(run_id) == "running"
    resumed.send_signal(signal.SIGINT)
    resumed.wait(30)
