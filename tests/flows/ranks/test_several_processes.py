"""Runs of two processes by the command line: started here and by torchrun, killed, resumed."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from storage.read.runs import read_run, read_steps
from tests.support import tiny_models
from tests.support.databases.matrix import new_database

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m")
OPD = ("app.cli.main",)
LIMIT = 120


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    root = tiny_models.save_pair(tmp_path_factory.mktemp("two"))
    path = root / "run.yaml"
    path.write_text(
        f"""
student: {root}/student
teacher: {root}/teacher
prompts: {root}/prompts.jsonl
device: cpu
steps: 3
sampling: {{prompts_per_step: 2, group_size: 2, max_new_tokens: 8}}
evaluation: {{prompts: 2, every: 0, teacher: false}}
checkpoints: {{every: 1}}
"""
    )
    return path


def started(*arguments, start=(sys.executable, "-m")):
    return subprocess.run(
        [*start, *OPD, *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )


def the_run(data):
    engine = new_database(data)
    try:
        (folder,) = (data / "runs").iterdir()
        return read_run(engine, folder.name), read_steps(engine, folder.name)["columns"]
    finally:
        engine.dispose()


def followers(data):
    """Processes that train along with a run below the folder."""
    processes = []
    for one in psutil.process_iter(["cmdline", "environ"]):
        line = " ".join(one.info["cmdline"] or [])
        if "app.worker.ranks.follower" in line and str(data) in (one.info["environ"] or {}).get(
            "OPD_DATA_DIR", ""
        ):
            processes.append(one)
    return processes


def test_one_run_whoever_starts_its_processes(config, tmp_path):
    losses = {}
    for name, start, devices in (
        ("one", (sys.executable, "-m"), "1"),
        ("two", (sys.executable, "-m"), "2"),
        ("torchrun", TORCHRUN, "1"),
    ):
        data = tmp_path / name
        more = ("--set", f"devices={devices}")
        done = started("train", config, "--data-dir", data, *more, start=start)
        assert done.returncode == 0, done.stderr
        run, steps = the_run(data)  # only one is there
        assert run["status"] == "finished"
        assert run["config"]["devices"] == (1 if name == "one" else 2)
        assert len(list((data / "runs" / run["id"] / "checkpoints").iterdir())) > 0
        losses[name] = steps["loss"]
    assert losses["two"] == losses["torchrun"]
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-5)


def test_torchrun_with_another_number_is_refused(config, tmp_path, opd, monkeypatch):
    """By the first of its processes, whose end ends the other."""
    for name in ("RANK", "LOCAL_RANK", "GROUP_RANK"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    code, _, err = opd("train", str(config), "--set", "devices=3")
    assert code == 2
    assert "Error: devices: is 3, and torchrun has started 2 processes" in err
    assert not (tmp_path / "data" / "runs").exists()


@pytest.mark.parametrize("victim", ["follower", "first"])
def test_a_process_that_is_killed_ends_the_run_and_it_resumes(config, tmp_path, victim):
    data = tmp_path / "data"
    environment = {**ENVIRONMENT, "OPD_DATA_DIR": str(data)}
    command = [sys.executable, "-m", *OPD, "train", str(config)]
    changes = ("--set", "devices=2", "--set", "steps=2000")
    train = subprocess.Popen(
        [*command, *changes], env=environment, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + LIMIT
    while not list(data.glob("runs/*/checkpoints/step-*")):
        assert time.monotonic() < until and train.poll() is None, train.stderr.read()
        time.sleep(0.1)
    (along,) = followers(data)
    os.kill(along.pid if victim == "follower" else train.pid, signal.SIGKILL)
    _, said = train.communicate(timeout=LIMIT)
    if victim == "follower":
        assert train.returncode == 1
        assert "process 2 of 2 killed by signal 9 (SIGKILL)" in said
    until = time.monotonic() + LIMIT
    while followers(data):  # it goes when the first process has gone
        assert time.monotonic() < until
        time.sleep(0.1)
    run = the_run(data)[0]
    resumed = subprocess.Popen(
        [sys.executable, "-m", *OPD, "resume", run["id"], "--set", "devices=1"],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    while the_run(data)[0]["step"] <= run["step"]:
        assert resumed.poll() is None, resumed.stderr.read()
        time.sleep(0.1)
    resumed.terminate()
    resumed.communicate(timeout=LIMIT)
    after = the_run(data)[0]
    assert (after["status"], after["attempt"]) == ("interrupted", 2)
    assert after["config"]["devices"] == 1
    assert not followers(data)


def test_cancelling_ends_all_of_them_with_a_checkpoint(config, tmp_path):
    data = tmp_path / "data"
    environment = {**ENVIRONMENT, "OPD_DATA_DIR": str(data)}
    command = [sys.executable, "-m", *OPD, "train", str(config)]
    changes = ("--set", "devices=2", "--set", "steps=2000", "--set", "checkpoints.every=0")
    train = subprocess.Popen(
        [*command, *changes], env=environment, stderr=subprocess.PIPE, text=True
    )
    while not (data / "studio.db").exists() or not (steps := the_steps(data)):
        assert train.poll() is None, train.stderr.read()
        time.sleep(0.1)
    run = the_run(data)[0]
    assert started("cancel", run["id"], "--data-dir", data).returncode == 0
    train.communicate(timeout=LIMIT)
    after = the_run(data)[0]
    assert after["status"] == "cancelled"
    assert [c["step"] for c in after["checkpoints"]] == [after["step"]] and after["step"] >= steps
    assert not followers(data)


def the_steps(data):
    return the_run(data)[0]["step"] if list(data.glob("runs/*")) else 0
