"""Memory runs out in each phase of a run: it is named, what helps is named, and the run goes on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.worker.devices.out_of_memory import explained
from opd.config.resuming import may_change
from opd.config.run import parse
from opd.errors import LackOfMemoryError
from opd.training import checkpoint, trainer
from storage.queue import jobs
from tests.support.in_process_runs import JobRunner
from tests.support.tiny_models import save_pair

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 1 GiB")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture
def runner(inputs: Path, tmp_path: Path) -> Iterator[JobRunner]:
    made = JobRunner(tmp_path / "data", inputs)
    yield made
    made.engine.dispose()


def full_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which raises at its n-th call."""
    calls = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise FULL
        return function(*arguments, **named)

    return wrapped


# Phase, what raises, at which call, where the error says it was, the step that is kept (-1: none).
# Each run has 3 steps, one micro-batch a step, and a checkpoint only at its end.
PHASES = [
    ("opd.training.loading.load_student", 1, "while the models were loaded", -1),
    ("opd.training.trainer.write", 2, "while sampling in step 2", 1),
    ("opd.teachers.local.completion_hidden", 4, "while the teacher read in step 2", 1),
    ("opd.training.update.completion_hidden", 2, "in the student's forward and backward", 1),
    ("opd.training.update.token_losses", 2, "in the student's forward and backward", 1),
    ("torch.nn.utils.clip_grad_norm_", 2, "in the optimizer's update of step 2", -1),
    ("torch.optim.AdamW.step", 2, "in the optimizer's update of step 2", -1),
    ("opd.training.trainer.evaluate", 2, "while evaluating after step 2", 2),
]


@pytest.mark.parametrize(("name", "call", "where", "kept"), PHASES)
def test_each_phase_is_named_and_the_run_goes_on(
    runner: JobRunner,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    call: int,
    where: str,
    kept: int,
) -> None:
    module, _, attribute = name.rpartition(".")
    owner = {"torch.optim.AdamW": torch.optim.AdamW}.get(module, module)
    original = _function(module, attribute)
    wrapped = full_at(call, original)
    if owner is module:
        monkeypatch.setattr(name, wrapped)
    else:
        monkeypatch.setattr(owner, attribute, wrapped)
    run_id = runner.queue(
        steps=3, checkpoints={"every": 0}, evaluation={"prompts": 2, "keep": 1, "every": 2}
    )
    failed = runner.attempt(run_id)
    text = failed["error_text"]
    assert (failed["status"], failed["error_kind"]) == ("failed", "out of memory"), text
    assert text.startswith(f"out of memory {where}") and "on cpu: the run holds" in text
    assert "are free (OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB" in text
    assert runner.at_rest(run_id) == ([kept] if kept >= 0 else [])
    assert (f"checkpoint of step {kept}" if kept >= 0 else "for want of a checkpoint") in text
    jobs.requeue(runner.engine, run_id, settings=["optimizer.micro_batch_tokens=128"])
    ended = runner.attempt(run_id)
    assert (ended["status"], ended["step"]) == ("finished", 3)
    whole = runner.attempt(
        runner.queue(
            steps=3, checkpoints={"every": 0}, evaluation={"prompts": 2, "keep": 1, "every": 2}
        )
    )
    assert ended["kl"] == pytest.approx(whole["kl"]), "it is the run that never stopped"
    assert ended["config"]["optimizer"]["micro_batch_tokens"] == 128
    if kept >= 0:
        changed = {"field": "optimizer.micro_batch_tokens", "text": "256 → 128"}
        assert ended["accepted_changes"] == [{"attempt": 2, "step": kept, "changes": [changed]}]


def _function(module: str, attribute: str) -> Callable[..., Any]:
    if module == "torch.optim.AdamW":
        return torch.optim.AdamW.step
    owner = __import__(module, fromlist=[attribute])
    function: Callable[..., Any] = getattr(owner, attribute)
    return function


def test_the_checkpoint_that_was_there_is_named(
    runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", full_at(3, torch.optim.AdamW.step))
    run_id = runner.queue()
    assert "the checkpoint of step 2" in runner.attempt(run_id)["error_text"]
    assert runner.at_rest(run_id) == [1, 2]


def test_where_even_saving_fails_the_older_checkpoint_is_named(
    runner: JobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "write", full_at(3, trainer.write))
    monkeypatch.setattr(checkpoint, "save", full_at(2, checkpoint.save))
    run_id = runner.queue(checkpoints={"every": 1})
    text = runner.attempt(run_id)["error_text"]
    assert "while saving a checkpoint after step 2" in text and "checkpoint of step 1" in text


@pytest.mark.parametrize(
    ("phase", "first", "never"),
    [
        ("student", "student.gradient_checkpointing: true", "sampling.batch_size"),
        ("sample", "sampling.batch_size: 32", "gradient_checkpointing"),
        ("loading", "optimizer.name: adamw_8bit", "micro_batch_tokens"),
    ],
)
def test_what_helps_is_named_for_the_phase(phase: str, first: str, never: str) -> None:
    config = parse({"optimizer": {"micro_batch_tokens": 128}, "sampling": {"max_new_tokens": 1024}})
    error = LackOfMemoryError("out of memory", phase=phase)
    text = explained(error, config, "run-a", 3).message
    assert f"most first: {first}" in text, text
    assert never not in text and "from the checkpoint of step 3: opd resume run-a" in text
    named = text.partition("opd resume run-a")[2]
    assert all(may_change(part.partition("=")[0]) for part in named.split(" --set ")[1:])
    assert ("--set" in named) == (phase != "loading") or "teacher.offload=true" in named
