"""Runs whose layers are cut among processes, against those of one process that holds all."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from opd.models.folders import adapters
from opd.ranks.group import ALONE
from opd.training import loading
from opd.training.trainer import Training
from opd.types import CheckpointEvent, StepEvent
from tests.support import tiny_models
from tests.support.devices.rank_processes import on_ranks
from tests.support.devices.shared_runs import (
    STUDENTS,
    assert_alike,
    assert_files_alike,
    of,
    settings,
    sharded,
    trained,
)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_models.save_pair(tmp_path_factory.mktemp("shards"))


def two_runs(config, tmp_path):
    """The events of one process, and those of the first of two."""
    one = trained(ALONE, config=config, folder=tmp_path / "one")
    work = partial(trained, config=sharded(config), folder=tmp_path / "cut")
    first, second = on_ranks(2, work, tmp_path / "r")
    assert not isinstance(first, Exception), (tmp_path / "r" / "log").read_text()
    assert not of(CheckpointEvent, second)
    return one, first


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_eight_steps_are_those_of_one_process(inputs, tmp_path, student):
    """The gradient is clipped in each; the checkpoints are the same files."""
    config = settings(
        inputs, student=dict(student), optimizer={"learning_rate": 1e-3, "max_grad_norm": 0.01}
    )
    one, cut = two_runs(config, tmp_path)
    assert of(StepEvent, one)[0].metrics["grad_norm"] > 0.01
    assert_alike(one, cut)


def gradient(ranks, *, config, folder, monkeypatch):
    """Of the first step, whole, as the optimizer would find it."""
    monkeypatch.setitem(loading.DTYPES, "float32", torch.float64)
    plain = adapters.with_adapter
    monkeypatch.setattr(adapters, "with_adapter", lambda *a, **k: plain(*a, **k).double())
    gradients = {}

    class Seen(Training):
        def _load(self):
            loaded = super()._load()
            student, learner = loaded.pair.student, loaded.learner
            step = learner.optimizer.step
            names = [n for n, p in student.named_parameters() if p.requires_grad]
            wholes = [p for p in student.parameters() if p.requires_grad]
            assert any(isinstance(p, DTensor) for p in wholes) == (ranks is not ALONE)

            def look(*args):
                for name, whole, part in zip(names, wholes, learner.trained, strict=True):
                    grad = part.grad
                    if isinstance(whole, DTensor):
                        grad = DTensor.from_local(
                            grad,
                            whole.device_mesh,
                            whole.placements,
                            shape=whole.shape,
                            stride=whole.stride(),
                        ).full_tensor()
                    gradients[name] = grad.numpy().copy()
                return step(*args)

            learner.optimizer.step = look
            return loaded

    events = list(Seen(config, folder, ranks=ranks).events())
    return gradients, of(StepEvent, events)[0].metrics["loss"]


@pytest.mark.parametrize("student", STUDENTS.values(), ids=STUDENTS)
def test_the_first_gradient_in_float64(inputs, tmp_path, monkeypatch, student):
    config = settings(
        inputs,
        steps=1,
        student=dict(student),
        checkpoints={"every": 0},
        optimizer={"max_grad_norm": 1e6, "micro_batch_tokens": 64},
    )
    work = partial(gradient, folder=tmp_path / "run", monkeypatch=monkeypatch)
    alone, loss = work(ALONE, config=config)
    answers = on_ranks(2, partial(work, config=sharded(config)), tmp_path / "r")
    assert not isinstance(answers[0], Exception), (tmp_path / "r" / "log").read_text()
    (shared, same_loss), _ = answers
    assert same_loss == pytest.approx(loss, rel=1e-9)
    assert alone.keys() == shared.keys()
    for name, expected in alone.items():
        assert expected.dtype == np.float64
        apart = np.linalg.norm(expected - shared[name])
        assert apart <= 1e-6 * np.linalg.norm(expected), name


TEACHERS = {
    "its own start": {"teacher": {"kind": "self", "prompt": "{answer}: {prompt}"}},
    "its own start, below an adapter": {
        "teacher": {"kind": "self", "prompt": "{answer}: {prompt}"},
        "student": {"lora": {"rank": 4}},
    },
    "writes, too": {"sampling": {"teacher_share": 0.5, "max_new_tokens": 8}},
}


@pytest.mark.parametrize("changes", TEACHERS.values(), ids=TEACHERS)
def test_teachers_are_cut_as_well(inputs, tmp_path, changes):
    config = settings(inputs, steps=1, **{k: dict(v) for k, v in changes.items()})
    assert_alike(*two_runs(config, tmp_path))


def test_a_run_goes_on_cut_whole_and_with_another_number(inputs, tmp_path):
    config = settings(inputs, steps=4, checkpoints={"every": 2})
    one = trained(ALONE, config=config, folder=tmp_path / "one")
    half = of(CheckpointEvent, one)[0]
    expected = [e.metrics["loss"] for e in of(StepEvent, one)][2:]

    def losses(events):
        assert not isinstance(events, Exception), events
        return [e.metrics["loss"] for e in of(StepEvent, events)]

    begun, *_ = on_ranks(
        2,
        partial(
            trained,
            config=sharded(config).model_copy(update={"steps": 2}),
            folder=tmp_path / "cut",
        ),
        tmp_path / "r",
    )
    kept = of(CheckpointEvent, begun)[-1].path
    assert_files_alike(f"{half.path}/optimizer.safetensors", f"{kept}/optimizer.safetensors", 1e-4)
    whole = trained(ALONE, config=config, folder=tmp_path / "a", resume_from=Path(kept))
    assert losses(whole) == pytest.approx(expected, rel=1e-4)
    again, *_ = on_ranks(
        3,
        partial(
            trained, config=sharded(config), folder=tmp_path / "b", resume_from=Path(half.path)
        ),
        tmp_path / "r3",
    )
    assert losses(again) == pytest.approx(expected, rel=1e-4)


def test_bfloat16_layers_compute_narrow_and_train_wide(inputs, tmp_path):
    config = settings(inputs, steps=2, student={"dtype": "bfloat16"})
    one, cut = two_runs(config, tmp_path)
    a, b = (of(StepEvent, events)[0] for events in (one, cut))
    assert b.metrics["grad_norm"] == pytest.approx(a.metrics["grad_norm"], rel=0.05)
    kept = [of(CheckpointEvent, events)[-1].path for events in (one, cut)]
    assert_files_alike(*(f"{path}/model.safetensors" for path in kept), 0.01)


def stopped(ranks, *, config, folder):
    """The first process stops in the third step and saves what was reached; the other attends."""
    training = Training(config, folder, ranks=ranks)
    seen = 0
    for event in training.events():
        seen += isinstance(event, StepEvent)
        if ranks.leads and seen == 2:
            break
    return training.save_checkpoint() if ranks.leads else seen


def test_what_was_reached_is_saved_after_a_stop(inputs, tmp_path):
    config = settings(inputs, steps=100, checkpoints={"every": 0})
    one = trained(
        ALONE,
        config=config.model_copy(update={"steps": 2}),
        folder=tmp_path / "one",
    )
    work = partial(stopped, config=sharded(config), folder=tmp_path / "cut")
    saved, seen = on_ranks(2, work, tmp_path / "r")
    assert not isinstance(saved, Exception), (tmp_path / "r" / "log").read_text()
    assert (saved.step, seen >= 2) == (2, True)
    expected = of(CheckpointEvent, one)[-1]
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert_files_alike(f"{expected.path}/{name}", f"{saved.path}/{name}", 1e-4)
