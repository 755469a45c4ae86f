"""Killed and resumed: the same run as one left alone, from whichever checkpoint is whole."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import update
from typer.testing import CliRunner

from app.cli.commands import commands as app
from app.worker.recovery import running
from app.worker.supervisor import Supervisor
from bench import kills
from bench.support import saves
from opd.models.folders.adapters import load_adapter
from opd.models.load import load_model
from opd.training.checkpoint_manifest import make
from opd.types import CheckpointEvent, StepEvent
from storage import schema
from storage.data_dir import DataDir
from storage.engine import begin, open_database
from storage.queue import jobs
from storage.read.export import export_rows
from storage.read.runs import read_evaluations, read_run, read_runs, read_steps
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE
from tests.support.in_process_runs import JobRunner, dying

pytestmark = pytest.mark.device
of_a_processor = pytest.mark.skipif(
    DEVICE.type != "cpu", reason="the runs of bench.kills are the processor's"
)

LORA = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_models.save_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture
def runner(inputs, tmp_path):
    made = JobRunner(tmp_path / "data", inputs)
    yield made
    made.engine.dispose()


def after(kind, step):
    return dying(lambda event: isinstance(event, kind) and event.step == step)


def state(runner, run_id):
    """All that must not depend on how the run came about."""
    runner.at_rest(run_id)
    return kills.rows(runner.engine) | kills.files(runner.data_dir, run_id)


def twins(runner, tmp_path, **changes):
    """Two data directories with the same queued run."""
    run_id = runner.queue(**changes)
    runner.engine.dispose()
    shutil.copytree(runner.data_dir, tmp_path / "twin")
    return run_id, JobRunner(tmp_path / "twin", runner.inputs)


def change_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@of_a_processor
def test_three_kills_leave_no_trace(tmp_path):
    """A short form of `python -m bench.kills`, all of them of one run."""
    reference = kills.Reference.of(tmp_path, kills.CASES["average"], warm=True)
    trial = kills.copied(reference.template, tmp_path / "killed")
    chance = random.Random(0)
    for said in (b"step 2/6", b"step 4/6", b"step 5/6"):
        assert not trial.attempt(chance.uniform(0, 0.1), said)[0]
    assert trial.attempt()[0]
    assert kills.differences(reference.state, trial.state()) == []
    assert reference.state["status"] == "finished"
    assert reference.state["rows = folders"] == "True"
    assert any(name.endswith("average.safetensors") for name in reference.state)


@of_a_processor
def test_the_comparison_can_fail(tmp_path):
    """Without the optimizer's moments, a resumed run is another."""
    reference = kills.Reference.of(tmp_path, kills.CASES["full"], warm=True)
    trial = kills.copied(reference.template, tmp_path / "killed")
    assert not trial.attempt(0, b"step 3/6")[0]
    assert replace(trial, broken="moments").attempt()[0]
    differences = kills.differences(reference.state, trial.state())
    assert any(name.endswith("model.safetensors") for name in differences)
    assert any(name.startswith("token_record/") for name in differences)


def test_twenty_kills_within_saving(tmp_path, capsys):
    assert saves.main(20, 1, "", tmp_path / "whole") == 0
    assert "20 of 20 kills left a latest checkpoint that loads" in capsys.readouterr().out
    # how many kills come amid a save depends on the machine; a wrong order is found all the same
    assert any(saves.main(3, seed, "order", tmp_path / f"broken-{seed}") for seed in range(8))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer.json"])
def test_a_changed_byte_sends_the_run_back_by_one_checkpoint(runner, tmp_path, name):
    run_id, twin = twins(runner, tmp_path)
    assert runner.attempt(run_id)["status"] == "finished"
    assert twin.attempt(run_id, after(CheckpointEvent, 3))["status"] == "failed"
    assert twin.at_rest(run_id) == [2, 3]
    change_a_byte(twin.folder(run_id) / "step-000003" / name)
    assert twin.attempt(run_id)["status"] == "finished"
    log = twin.log(run_id)
    assert f"step-000003/{name} was changed since it was saved; trying the one before" in log
    assert "attempt 2, from step 2" in log
    assert kills.differences(state(runner, run_id), state(twin, run_id)) == []


def test_a_date_in_the_chat_template_is_that_of_the_first_attempt(runner, tmp_path):
    shutil.copytree(runner.inputs / "student", tmp_path / "student")
    clock = "{{ strftime_now('%H:%M:%S.%f') }} {{ messages[0].content }}"
    (tmp_path / "student" / "chat_template.jinja").write_text(clock)
    run_id = runner.queue(
        student={"model": str(tmp_path / "student")},
        prompts={"source": str(runner.inputs / "prompts.jsonl"), "chat": True},
        teacher={"kind": "self", "prompt": "Hint. {prompt}"},
    )
    assert runner.attempt(run_id, after(CheckpointEvent, 2))["status"] == "failed"
    run = runner.attempt(run_id)
    assert run["status"] == "finished"
    rollouts = [r for r in export_rows(runner.engine, run_id) if r["kind"] == "train"]
    assert {r["step"] for r in rollouts} == {1, 2, 3, 4}
    times = {r["prompt"].split()[0] for r in rollouts}
    assert times == {f"{run['rendered_as_of'].partition('T')[2]}.000000"}
    date = run["rendered_as_of"].replace("T", " ")
    assert runner.log(run_id).count(f"as of {date} in the chat template") == 2


def reconfigure(runner, run_id, **changes):
    """The run with another configuration than it was started with."""
    config = runner.run(run_id)["config"] | changes
    with begin(runner.engine) as connection:
        connection.execute(update(schema.run).values(config=config))


def test_a_checkpoint_of_another_adapter_is_refused(runner):
    student = {"model": str(runner.inputs / "student")}
    run_id = runner.queue(student=student | {"lora": LORA})
    runner.attempt(run_id, after(CheckpointEvent, 2))
    reconfigure(runner, run_id, student=student | {"lora": LORA | {"rank": 8}})
    run = runner.attempt(run_id)
    assert (run["status"], run["error_kind"]) == ("failed", "bad configuration")
    assert "student.lora.rank: is 8, but the checkpoint step-000002 was" in run["error_text"]


def test_another_model_in_the_students_folder_is_refused_even_where_changes_are_accepted(
    runner, tmp_path
):
    shutil.copytree(runner.inputs / "student", tmp_path / "student")
    run_id = runner.queue(student={"model": str(tmp_path / "student")})
    runner.attempt(run_id, after(CheckpointEvent, 2))
    tiny_models.save_model(tmp_path / "student", "llama")
    run = runner.attempt(run_id)
    assert run["error_kind"] == "changed inputs"
    assert "student.model: model settings changed" in run["error_text"]
    jobs.requeue(runner.engine, run_id, accept_changes=True)
    run = runner.attempt_queued(run_id)
    assert run["error_kind"] == "bad configuration"
    assert "student.model: is model_type llama, but the checkpoint" in run["error_text"]


def test_moments_of_other_parameters_are_refused(runner):
    run_id = runner.queue()
    runner.attempt(run_id, after(CheckpointEvent, 2))
    path = runner.folder(run_id) / "step-000002"
    moments = load_file(path / "optimizer.safetensors")
    name = next(n for n in moments if n.endswith("exp_avg"))
    save_file(moments | {name: torch.zeros(3, 3)}, path / "optimizer.safetensors")
    with begin(runner.engine) as connection:
        connection.execute(update(schema.checkpoint).values(manifest=make(path)))
    run = runner.attempt(run_id)
    assert run["status"] == "failed" and "holds moments of other parameters" in run["error_text"]


def test_with_no_checkpoint_whole_a_run_begins_again(runner, tmp_path):
    run_id, twin = twins(runner, tmp_path)
    runner.attempt(run_id)
    twin.attempt(run_id, after(StepEvent, 3))
    for folder in twin.folder(run_id).glob("step-*"):
        change_a_byte(folder / "model.safetensors")
    assert twin.attempt(run_id)["status"] == "finished"
    assert "attempt 2, from the start" in twin.log(run_id)
    assert kills.differences(state(runner, run_id), state(twin, run_id)) == []


def test_an_older_damaged_checkpoint_does_not_keep_a_run_from_going_on(runner, tmp_path):
    run_id, twin = twins(runner, tmp_path)
    runner.attempt(run_id)
    twin.attempt(run_id, after(CheckpointEvent, 3))
    (twin.folder(run_id) / "step-000002" / "trainer.json").write_text("{")
    assert twin.attempt(run_id)["status"] == "finished"
    assert kills.differences(state(runner, run_id), state(twin, run_id)) == []


@pytest.mark.parametrize("event", [CheckpointEvent, StepEvent])
def test_the_newest_and_the_best_stay_after_a_resume(runner, monkeypatch, event):
    run_id = runner.queue(
        steps=5, checkpoints={"every": 1, "keep": 1}, evaluation={"prompts": 2, "every": 1}
    )
    scores = iter([0.0, 0.9, 0.5, 0.5, 0.5, 0.5, 0.5])  # of steps 0, 1, 2, …
    monkeypatch.setattr("opd.training.trainer.headline", lambda _: next(scores))
    assert runner.attempt(run_id, after(event, 3))["status"] == "failed"
    assert runner.at_rest(run_id) == ([1, 3] if event is CheckpointEvent else [1, 2])
    assert runner.attempt(run_id)["status"] == "finished"
    assert runner.at_rest(run_id) == [1, 5]


@pytest.mark.parametrize(("mode", "left"), [("save", [1, 2]), ("discard", [])])
def test_a_cancelled_runs_checkpoints_are_those_on_record(runner, monkeypatch, mode, left):
    run_id = runner.queue(checkpoints={"every": 0, "keep": 2})
    runner.attempt(run_id, after(StepEvent, 1))
    assert runner.at_rest(run_id) == []
    run_id = runner.queue(checkpoints={"every": 1, "keep": 2}, steps=400)
    lease = []

    class Heard(after(StepEvent, 10_000)):
        def events(self):
            for event in super().events():
                yield event
                if isinstance(event, StepEvent) and event.step == 2 and not lease:
                    lease.append(jobs.request_cancel(runner.engine, run_id, mode))
                    while not self._callbacks.stop():
                        time.sleep(0.05)

    assert runner.attempt(run_id, Heard)["status"] == "cancelled"
    assert runner.at_rest(run_id) == left


def test_the_evaluation_that_a_stop_cut_off_is_made_up_for(runner, tmp_path):
    run_id, twin = twins(runner, tmp_path, checkpoints={"every": 0}, steps=2)
    runner.attempt(run_id)

    class Stopping(after(StepEvent, 10_000)):
        def events(self):
            for event in super().events():
                yield event
                if isinstance(event, StepEvent) and event.step == 2:
                    signal.raise_signal(signal.SIGTERM)
                    while not self._callbacks.stop():
                        time.sleep(0.05)

    assert twin.attempt(run_id, Stopping)["status"] == "interrupted"
    assert twin.at_rest(run_id) == [2]
    assert twin.attempt(run_id)["status"] == "finished"
    steps = [e["step"] for e in read_evaluations(twin.engine, run_id)["items"]]
    assert set(steps) == {0, 2}


def test_killed_moved_and_resumed_by_command_and_by_button(inputs, tmp_path):
    """The whole way of a user: `opd train`, SIGKILL, another folder, `opd resume`, `opd save`."""
    recipe = tmp_path / "run.yaml"
    recipe.write_text(
        f"student: {inputs}/student\nteacher: {inputs}/teacher\nprompts: {inputs}/prompts.jsonl\n"
        f"steps: 300\ndevice: {DEVICE}\nthreads: 1\ncheckpoints: {{every: 1}}\n"
        "sampling: {prompts_per_step: 2, group_size: 2, max_new_tokens: 6}\n"
        "evaluation: {prompts: 2}\nrecords: {rollouts_per_step: 1}\n"
    )
    first = tmp_path / "first"
    engine = open_database(first)
    run_id = _killed_at(engine, 2, "train", str(recipe), "--data-dir", str(first))
    engine.dispose()
    moved = tmp_path / "moved"
    first.rename(moved)
    engine = open_database(moved)
    step = read_run(engine, run_id)["step"]
    _killed_at(engine, step + 2, "resume", run_id, "--data-dir", str(moved))
    assert read_run(engine, run_id)["attempt"] == 2
    supervisor = Supervisor(engine, DataDir(moved))  # as behind the page's button
    supervisor.turn()
    assert read_run(engine, run_id)["status"] == "interrupted"
    jobs.requeue(engine, run_id)
    step = read_run(engine, run_id)["step"]
    end = time.monotonic() + 300
    while read_run(engine, run_id)["step"] < step + 2 and time.monotonic() < end:
        supervisor.turn()
        time.sleep(0.1)
    owner = next(run.owner for run in running(engine) if run.id == run_id)
    jobs.request_cancel(engine, run_id, "save")
    while psutil.pid_exists(owner.pid) and time.monotonic() < end:
        supervisor.turn()  # which reaps it, once its last thread has ended
        time.sleep(0.1)
    run = read_run(engine, run_id)
    assert (run["status"], run["attempt"]) == ("cancelled", 3)
    assert read_steps(engine, run_id)["columns"]["step"] == list(range(1, run["step"] + 1))
    engine.dispose()
    done = CliRunner().invoke(
        app, ["save", run_id, "--out", str(tmp_path / "out"), "--data-dir", str(moved)]
    )
    assert done.exit_code == 0, done.output
    newest = moved / "runs" / run_id / "checkpoints" / f"step-{run['checkpoints'][-1]['step']:06d}"
    saved, kept = (load_file(d / "model.safetensors") for d in (tmp_path / "out", newest))
    assert all(torch.equal(saved[name], kept[name]) for name in kept)


def _killed_at(engine, step, *command):
    """Starts the command, waits for the run's step, kills its process, and returns the run's id."""
    started = subprocess.Popen([sys.executable, "-m", "app.cli.main", *command])
    end = time.monotonic() + 300
    try:
        while True:
            assert started.poll() is None and time.monotonic() < end
            runs = read_runs(engine)["items"]
            if runs and runs[0]["status"] == "running" and runs[0]["step"] >= step:
                return runs[0]["id"]
            time.sleep(0.05)
    finally:
        started.kill()
        started.wait()


def test_another_runs_checkpoint_is_the_teacher(runner):
    other = runner.queue(steps=3, checkpoints={"every": 1, "keep": 2})
    runner.attempt(other)
    newest = runner.queue(teacher=other, steps=1)
    run = runner.attempt(newest)
    assert run["status"] == "finished"
    assert run["config"]["teacher"]["model"] == other
    assert run["resolved"]["teacher"] == str(runner.folder(other) / "step-000003")
    older = runner.queue(teacher=f"{other}@2", steps=1)
    assert runner.attempt(older)["resolved"]["teacher"] == str(runner.folder(other) / "step-000002")
    routed = runner.queue(
        teacher={
            "model": str(runner.inputs / "teacher"),
            "route_by": "answer",
            "routes": {"3": f"{other}@2"},
        },
        steps=1,
    )
    assert runner.attempt(routed)["status"] == "finished"
    exported = {
        run_id: next(export_rows(runner.engine, run_id, print)) for run_id in (older, routed)
    }
    assert exported[older]["teacher_logprobs"] == exported[routed]["teacher_logprobs"]


def test_a_resumed_run_keeps_the_model_that_it_began_with(runner):
    other = runner.queue(steps=2, checkpoints={"every": 1, "keep": 9})
    runner.attempt(other, after(CheckpointEvent, 1))
    run_id = runner.queue(student={"model": other}, teacher=other, steps=2)
    runner.attempt(run_id, after(StepEvent, 1))
    began = runner.run(run_id)["resolved"]
    assert runner.attempt(other)["status"] == "finished"
    assert runner.attempt(run_id)["resolved"] == began
    assert runner.run(run_id)["status"] == "finished"
    assert began["student"] == began["teacher"] == str(runner.folder(other) / "step-000001")


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("run-nowhere", "there is no run run-nowhere"),
        ("{bare}", "{bare} has no checkpoint yet"),
        ("{other}@7", "{other} has no checkpoint of step 7; it has {other}@1, {other}@2"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(runner, reference, text):
    other, bare = runner.queue(steps=2), runner.queue()
    runner.attempt(other)
    names = {"other": other, "bare": bare}
    run = runner.attempt(runner.queue(teacher=reference.format(**names)))
    assert (run["status"], run["error_kind"]) == ("failed", "missing model")
    assert text.format(**names) in run["error_text"]
    assert run["error_text"].startswith("teacher.model: ")


def test_a_damaged_reference_is_refused(runner):
    other = runner.queue(steps=1)
    runner.attempt(other)
    change_a_byte(runner.folder(other) / "step-000001" / "model.safetensors")
    run = runner.attempt(runner.queue(student={"model": other}))
    assert (run["status"], run["error_kind"]) == ("failed", "damaged checkpoint")
    assert "model.safetensors was changed since it was saved" in run["error_text"]


def logits(model):
    with torch.no_grad():
        return model(torch.arange(2, 40)[None]).logits


def test_an_adapters_checkpoint_is_its_model_with_the_adapter(runner, tmp_path):
    base = runner.inputs / "student"
    other = runner.queue(student={"lora": LORA}, steps=2)
    assert runner.attempt(other)["status"] == "finished"
    folder = runner.folder(other) / "step-000002"
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)  # whatever the process's order of sets
    adapted = logits(load_adapter(load_model(base, where="x"), folder))
    assert (adapted - logits(load_model(base, where="x"))).abs().max() > 0.1
    np.testing.assert_allclose(logits(load_model(folder, where="x")), adapted, atol=1e-4)
    # One adapter upon the other, resumed; then as a teacher, and merged by `opd save`
    second = runner.queue(student={"model": other, "lora": LORA}, steps=2)
    runner.attempt(second, after(CheckpointEvent, 1))
    assert runner.attempt(second)["status"] == "finished"
    both = logits(load_model(runner.folder(second) / "step-000002", where="x"))
    assert (both - adapted).abs().max() > 0.1
    assert runner.attempt(runner.queue(teacher=second, steps=1))["status"] == "finished"
    arguments = ["save", second, "--merge", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--data-dir", str(runner.data_dir)])
    assert done.exit_code == 0, done.output
    np.testing.assert_allclose(logits(load_model(tmp_path / "out", where="x")), both, atol=1e-4)


def test_all_weights_are_trained_on_from_an_adapters_checkpoint(runner, tmp_path):
    other = runner.queue(student={"lora": LORA}, steps=1)
    runner.attempt(other)
    run_id, twin = twins(runner, tmp_path, student={"model": other}, steps=2)
    assert runner.attempt(run_id)["status"] == "finished"
    assert twin.attempt(run_id, after(CheckpointEvent, 1))["status"] == "failed"
    assert twin.attempt(run_id)["status"] == "finished"
    weights = [
        load_file(d.folder(run_id) / "step-000002" / "model.safetensors") for d in (runner, twin)
    ]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
