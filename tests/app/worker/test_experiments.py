"""Experiments with real processes: by the command line, by the supervisor, killed and resumed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.worker.process import this_process
from storage.comparison import experiment_results
from storage.data_dir import DataDir
from storage.queue import experiments, jobs
from storage.read.runs import read_evaluations, read_run, read_runs, read_steps
from tests.support.databases.matrix import new_database
from tests.support.experiment_definition import data, definition
from tests.support.studio import Studio


def file(folder: Path, **changes: Any) -> str:
    path = folder / "small.yaml"
    path.write_text(json.dumps(data(**changes)))
    return str(path)


def slow() -> dict[str, Any]:
    return {"common": {**data()["common"], "name": "slow", "steps": 20}}


def only(studio: Studio) -> str:
    studio.wait(lambda: experiment_results.experiments(studio.engine)["total"])
    return str(experiment_results.experiments(studio.engine)["items"][0]["id"])


def state(studio: Studio, name: str) -> str:
    return str(experiment_results.experiment(studio.engine, name)["status"])


def test_a_whole_experiment_on_the_command_line(studio: Studio, tmp_path: Path) -> None:
    process = studio.start("cli", "experiment", file(tmp_path), "--json")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    results = json.loads(out.splitlines()[-1])
    assert (results["name"], results["status"]) == ("small", "finished")
    assert [(arm["name"], len(arm["runs"])) for arm in results["arms"]] == [("rl", 2), ("opd", 2)]
    assert set(results["ratios"]) == {"steps", "tokens", "flops", "seconds"}
    assert len(results["table"]) == 2
    # 2 arms × 2 rates while tuning, then 2 arms × 2 seeds: ordinary runs
    runs = read_runs(studio.engine, tag=results["id"])["items"]
    assert len(runs) == 8 and {run["status"] for run in runs} == {"finished"}
    for run in runs:  # what was tuned leaves no weights behind
        kept = read_run(studio.engine, run["id"])["checkpoints"]
        assert bool(kept) == (run["seed"] < 1000)
    assert "run 8 of 8" in err


def test_people_get_a_table(studio: Studio, tmp_path: Path) -> None:
    process = studio.start("cli", "experiment", file(tmp_path), "--quick", "--seeds", "2")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "RL ÷ OPD: steps" in out and "the final score of “RL” with the same seed" in out


def test_the_supervisor_takes_one_to_its_end(studio: Studio) -> None:
    name = experiments.create_experiment(studio.engine, definition(), quick=True)
    studio.supervisor()
    studio.wait(lambda: state(studio, name) == "finished")
    assert read_runs(studio.engine, tag=name)["total"] == 2


@pytest.mark.parametrize(
    ("number", "served"), [(signal.SIGKILL, True), (signal.SIGKILL, False), (signal.SIGINT, False)]
)
def test_stopped_at_any_moment_it_goes_on_where_it_was(
    studio: Studio, tmp_path: Path, number: signal.Signals, served: bool
) -> None:
    first = studio.start("cli", "experiment", file(tmp_path, **slow()), "--quick")
    name = only(studio)
    studio.wait(lambda: read_runs(studio.engine, tag=name)["total"])
    run_id = read_runs(studio.engine, tag=name)["items"][0]["id"]
    studio.wait_step(run_id, 3)
    first.send_signal(number)
    first.wait(300)
    if number == signal.SIGINT:
        assert first.returncode == 130
        assert state(studio, name) == "stopped"
    elif served:
        studio.supervisor()  # finds the run and the experiment without their owner
        studio.wait(lambda: state(studio, name) == "stopped")
    again = studio.start("cli", "experiment", name, "--json")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    runs = read_runs(studio.engine, tag=name)["items"]
    assert len(runs) == 2 and {run["status"] for run in runs} == {"finished"}
    assert studio.run(run_id)["attempt"] == 2
    shown = studio.start("cli", "experiment", name)  # a finished one is told again
    out, err = shown.communicate(timeout=300)
    assert shown.returncode == 0, err
    assert f"{name} small finished" in out


def test_where_there_are_gpus_every_run_is_a_process(
    opd: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("opd.devices.gpus.gpu_count", lambda: 1)
    common = {**data()["common"], "student": "bundled/nothing"}
    code, _, err = opd("experiment", file(tmp_path, common=common), "--quick")
    assert code == 1
    assert "(RL) failed; to resume: opd experiment exp-" in err
    (log,) = (tmp_path / "data" / "runs").glob("*/log.txt")
    assert "missing model: student.model: 'bundled/nothing" in log.read_text()


def test_a_job_that_dies_before_it_begins_is_not_started_for_ever(
    opd: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("opd.devices.gpus.gpu_count", lambda: 1)
    broken = (sys.executable, "-c", "raise SystemExit('no driver')")
    monkeypatch.setattr("app.cli.foreground.JOB", broken)
    code, _, err = opd("experiment", file(tmp_path), "--quick")
    assert code == 2 and "the job did not start: " in err and "no driver" in err
    engine = new_database(tmp_path / "data")
    (item,) = experiment_results.experiments(engine)["items"]
    assert item["status"] == "stopped"
    assert [run["status"] for run in read_runs(engine)["items"]] == ["cancelled"]
    engine.dispose()


def test_killed_while_its_run_waits_it_goes_on_without_a_server(
    studio: Studio, tmp_path: Path
) -> None:
    """The run had not begun; its owner is a process of this place that is gone."""
    owner = dataclasses.replace(this_process(DataDir(studio.data_dir)), started=1.0)
    name = experiments.create_experiment(studio.engine, definition(), quick=True, owner=owner)
    planned = experiments.plan_of(
        studio.engine, experiments.experiment_row(studio.engine, name)
    ).next_run
    assert planned is not None
    experiments.add_run(studio.engine, name, planned.key, planned.config, owner)
    again = studio.start("cli", "experiment", name)
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err


def test_cancelled_from_a_page_no_further_run_is_made(studio: Studio) -> None:
    name = experiments.create_experiment(studio.engine, definition(**slow()), quick=True)
    studio.supervisor()
    studio.wait(lambda: jobs.running(studio.engine))
    assert experiments.cancel_experiment(studio.engine, name) == "cancelled"
    studio.wait(lambda: not jobs.running(studio.engine))
    assert read_runs(studio.engine, tag=name)["total"] == 1
    experiments.resume_experiment(studio.engine, name)
    studio.wait(lambda: state(studio, name) == "finished")


def test_a_failed_run_is_named(studio: Studio, tmp_path: Path) -> None:
    common = {**data()["common"], "name": "nan"}
    process = studio.start("cli", "experiment", file(tmp_path, common=common), "--quick")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "(RL) failed; to resume: opd experiment exp-" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no experiment or file of this name"),
        (["exp-none"], "exp-none: no such experiment"),
        (["exp-none", "--quick"], "continues with its original settings"),
        (["own-samples", "--seeds", "51"], "seeds: must be 1 to 50 (got 51)"),
        (["own-samples", "--seeds", "0"], "seeds: must be 1 to 50 (got 0)"),
        (["one-prompt", "--set", "teacher=arm:opd"], "arm:opd must come before opd"),
        (["own-samples", "--set", "seed=7"], "common.seed: each run gets its own seed"),
    ],
)
def test_bad_input_is_named(opd: Any, arguments: list[str], message: str) -> None:
    code, _, err = opd("experiment", *arguments)
    assert code == 2 and message in err


def test_a_repeat_has_the_same_scores_steps_tokens_and_flops(opd: Any, tmp_path: Path) -> None:
    """With the real trainer on the bundled pair."""
    common = {
        "device": "cpu",
        "threads": 1,
        "steps": 2,
        "prompts": {"count": 16, "problem_steps": 1},
        "sampling": {"prompts_per_step": 4, "group_size": 2},
        "evaluation": {"every": 1, "prompts": 8, "temperatures": [1.0]},
    }
    changes = {"common": common, "target": {"value": 0.01}, "quick": {"seeds": 1}}
    path = file(tmp_path, **changes)
    outcomes = []
    for folder in ("one", "two"):
        arguments = ("experiment", path, "--quick", "--json", "--data-dir", str(tmp_path / folder))
        code, out, err = opd(*arguments)
        assert code == 0, err
        results = json.loads(out.splitlines()[-1])
        outcomes.append(
            [(arm["chosen"], arm["score"], results["ratios"]["flops"]) for arm in results["arms"]]
        )
        ids = [run for arm in results["arms"] for run in arm["runs"]]
        database = new_database(tmp_path / folder)
        for run_id in ids:
            columns = read_steps(database, run_id)["columns"]
            kept = ("step", "tokens", "flops", "loss", "grad_norm", "reverse_kl")
            outcomes[-1].append([columns.get(name) for name in kept])
            outcomes[-1].append([e["value"] for e in read_evaluations(database, run_id)["items"]])
        database.dispose()
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0]) == 2 + 2 * 2


TWICE = """
from pathlib import Path
from tempfile import TemporaryDirectory
from opd.experiments.definition import experiment
from opd.types import StepEvent
from app.worker.attempts.training import training_factory
training = training_factory()
choice = {"optimizer.learning_rate": 3e-4}
config = experiment("small-student").run_config("rl", choice, seed=0, runs={}, quick=True)
seldom = {"prompts": 4, "suites": {}, "every": 0}
evaluation = config.evaluation.model_copy(update=seldom)
config = config.model_copy(update={"threads": 2, "steps": 18, "evaluation": evaluation})
told = []
for _ in range(4):
    with TemporaryDirectory() as folder:
        events = training(config, Path(folder)).events()
        told.append([dict(e.metrics) for e in events if isinstance(e, StepEvent)])
assert all(t == told[0] for t in told), "runs of the same seed differ"
"""


def test_two_threads_leave_no_bit_to_chance() -> None:
    """Without the setting of the job, three of four runs part by their sixteenth step."""
    chosen = ("MKL_CBWR", "OMP_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in chosen}
    done = subprocess.run(
        [sys.executable, "-c", TWICE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
