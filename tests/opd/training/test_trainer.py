"""A whole run on tiny models: events, checkpoints, exact resume, what bad input says."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from opd.config.run import parse
from opd.errors import UserError
from opd.sampling.sample import uniforms
from opd.training import checkpoint, checkpoint_manifest
from opd.training.trainer import Training
from opd.types import CheckpointEvent, EvaluationEvent, ModelsEvent, PhaseEvent, StepEvent
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE, repeatable

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return tiny_models.save_pair(tmp_path_factory.mktemp("trainer"))


def settings(inputs, **changes):
    return parse(
        {
            "student": str(inputs / "student"),
            "teacher": str(inputs / "teacher"),
            "prompts": str(inputs / "prompts.jsonl"),
            "steps": 4,
            "device": str(DEVICE),
            "threads": 1,
            "sampling": {"prompts_per_step": 3, "group_size": 2, "max_new_tokens": 8},
            "evaluation": {"prompts": 2, "every": 2, "keep": 1},
            "checkpoints": {"every": 2},
            "optimizer": {"learning_rate": 1e-2},
            **changes,
        }
    )


def run(config, folder, **options):
    return list(Training(config, folder, **options).events())


def of(kind, events):
    return [e for e in events if isinstance(e, kind)]


def test_events_tell_the_whole_run(inputs, tmp_path):
    config, lines = settings(inputs), []
    events = run(config, tmp_path, say=lines.append)
    (models,) = of(ModelsEvent, events)
    count = models.parameters["student"]
    assert f"student: {count:,} of {count:,} parameters are trained" in lines
    assert models.resolved == {n: str((inputs / n).resolve()) for n in ("student", "teacher")}
    steps = of(StepEvent, events)
    assert [e.step for e in steps] == [1, 2, 3, 4]
    glance, *evaluations = of(EvaluationEvent, events)
    assert [e.step for e in evaluations] == [0, 2, 4]
    assert glance.step == 0  # to look at while the first evaluation runs, which has them too
    assert not glance.scores
    for a, b in zip(glance.rollouts, evaluations[0].rollouts, strict=True):
        assert a.completion == b.completion
        np.testing.assert_allclose(a.record.reverse_kl, b.record.reverse_kl, atol=1e-4)
    assert [e.step for e in of(CheckpointEvent, events)] == [2, 4]
    assert isinstance(events[0], PhaseEvent)
    for event in steps:
        assert set(event.seconds) == {"sample", "teacher", "student", "optimizer"}
        assert len(event.rollouts) == 6
        assert event.tokens == sum(len(r.record) for r in event.rollouts)
        kl = np.concatenate([r.record.reverse_kl for r in event.rollouts])
        assert event.metrics["reverse_kl"] == pytest.approx(kl.mean(), rel=1e-6)
        assert event.metrics["loss"] == pytest.approx(kl.mean(), rel=1e-4)
        assert event.metrics["sampler_gap"] < 1e-3
        assert event.flops > 0
    assert steps[-1].metrics["reverse_kl"] < steps[0].metrics["reverse_kl"]
    scores = evaluations[0].scores
    metrics = ("pass@1", "finished", "teacher_pass@1", "teacher_finished")
    assert {(s.suite, s.metric) for s in scores} == {
        (suite, metric) for suite in ("heldout", "heldout-greedy") for metric in metrics
    }
    assert {s.metric for s in evaluations[-1].scores} == {"pass@1", "finished"}


def test_policy_gradient_loss_is_the_mean_log_ratio_on_fresh_samples(inputs, tmp_path):
    config = settings(inputs, objective={"name": "policy_gradient", "reduction": "sum"}, steps=1)
    (event,) = of(StepEvent, run(config, tmp_path))
    records = [r.record for r in event.rollouts]
    d = np.concatenate([r.sampler_logprobs - r.teacher_logprobs for r in records])
    assert event.metrics["loss"] == pytest.approx(d.sum(), rel=1e-3)
    np.testing.assert_allclose(np.concatenate([r.advantages for r in records]), -d, atol=1e-5)


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 8}])
def test_resumed_equals_uninterrupted_bit_for_bit(inputs, tmp_path, lora):
    config = settings(inputs, student={"model": str(inputs / "student"), "lora": lora})
    whole = of(StepEvent, run(config, tmp_path / "whole"))
    training = Training(config, tmp_path / "cut")
    for event in training.events():
        if isinstance(event, StepEvent) and event.step == 3:
            break  # the process dies here: step 3 is lost, the checkpoint of step 2 stands
    rest = of(
        StepEvent, run(config, tmp_path / "cut", resume_from=tmp_path / "cut" / "step-000002")
    )
    assert [e.step for e in rest] == [3, 4]
    for a, b in zip(whole[2:], rest, strict=True):
        assert repeatable(a.metrics) == repeatable(b.metrics)
        for x, y in zip(a.rollouts, b.rollouts, strict=True):
            assert (x.record.completion_ids == y.record.completion_ids).all()
            assert x.record.reverse_kl.tobytes() == y.record.reverse_kl.tobytes()
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    for file in (name, checkpoint.OPTIMIZER):
        one, two = (load_file(tmp_path / d / "step-000004" / file) for d in ("whole", "cut"))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[k], two[k]) for k in one)


def test_older_checkpoints_go(inputs, tmp_path):
    run(settings(inputs, checkpoints={"every": 1, "keep": 2}), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000004"]


def test_the_newest_and_the_best_stay():
    saved = [checkpoint.Progress(s, score) for s, score in enumerate([0.1, 0.9, None, 0.9, 0.5])]

    def gone(**settings):
        return [p.step for p in checkpoint.expendable(saved, **settings)]

    assert gone(keep=1, best=True) == [0, 1, 2]  # of two equal ones the later stays
    assert gone(keep=2, best=True) == [0, 1, 2]
    assert gone(keep=1, best=False) == [0, 1, 2, 3]
    assert gone(keep=9, best=True) == []
    unscored = [checkpoint.Progress(s) for s in range(3)]
    assert [p.step for p in checkpoint.expendable(unscored, keep=1, best=True)] == [0, 1]


def test_the_event_of_a_checkpoint_names_those_that_stay(inputs, tmp_path):
    config = settings(inputs, checkpoints={"every": 1, "keep": 1}, evaluation={"every": 1})
    saved = of(CheckpointEvent, run(config, tmp_path))
    folders = {int(p.name.removeprefix("step-")) for p in tmp_path.iterdir()}
    assert folders == {saved[-1].step, *saved[-1].keeps}


def test_older_checkpoints_go_after_a_resume_too(inputs, tmp_path):
    config = settings(inputs, checkpoints={"every": 1, "keep": 2})
    training = Training(config, tmp_path)
    for event in training.events():
        if isinstance(event, CheckpointEvent) and event.step == 2:
            break
    run(config, tmp_path, resume_from=tmp_path / "step-000002")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003", "step-000004"]


def test_a_changed_byte_in_a_checkpoint_is_noticed(inputs, tmp_path):
    (event,) = of(CheckpointEvent, run(settings(inputs, steps=1), tmp_path))
    folder = tmp_path / "step-000001"
    checkpoint_manifest.verify(folder, event.manifest)
    for name in event.manifest:
        file = folder / name
        original = file.read_bytes()
        changed = bytearray(original)
        changed[len(changed) // 2] ^= 1
        file.write_bytes(changed)
        with pytest.raises(UserError, match=name):
            checkpoint_manifest.verify(folder, event.manifest)
        file.write_bytes(original)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        checkpoint_manifest.verify(folder, event.manifest)


def test_an_interrupted_save_leaves_nothing_that_looks_whole(inputs, tmp_path, monkeypatch):
    training = Training(settings(inputs, checkpoints={"every": 0}), tmp_path)
    for event in training.events():
        if isinstance(event, StepEvent):
            break
    monkeypatch.setattr(checkpoint, "save_file", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        training.save_checkpoint()
    assert [p.name for p in tmp_path.iterdir()] == []
    monkeypatch.undo()
    training.save_checkpoint()
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]


def test_stop_ends_the_stream_between_events(inputs, tmp_path):
    looks = []
    training = Training(settings(inputs), tmp_path, stop=lambda: bool(looks))
    seen = []
    for event in training.events():
        seen.append(event)
        if isinstance(event, StepEvent):
            looks.append(True)
    assert [e.step for e in of(StepEvent, seen)] == [1]
    assert training.save_checkpoint().step == 1


def test_nan_loss_is_named_and_leaves_the_weights_alone(inputs, tmp_path):
    broken = tmp_path / "broken"
    tiny_models.save_model(broken, seed=1)
    state = load_file(broken / "model.safetensors")
    from safetensors.torch import save_file  # noqa: PLC0415 - beside its only use

    state["model.norm.weight"][:] = float("nan")
    save_file(state, broken / "model.safetensors", metadata={"format": "pt"})
    alone = {"prompts": 2, "keep": 1, "teacher": False}
    training = Training(settings(inputs, teacher=str(broken), evaluation=alone), tmp_path / "run")
    with pytest.raises(UserError) as caught:
        list(training.events())
    assert caught.value.kind == "nan loss"
    assert "learning_rate" in str(caught.value)
    for model, where in (
        ({"teacher": str(broken)}, "teacher"),
        ({"student": str(broken)}, "student"),
    ):
        with pytest.raises(UserError, match="are NaN while it writes") as caught:
            list(Training(settings(inputs, **model), tmp_path / where).events())
        assert (caught.value.kind, caught.value.where) == ("nan loss", where)


def test_records_kept_follow_the_settings(inputs, tmp_path):
    config = settings(inputs, records={"every": 2, "rollouts_per_step": 4, "top_k": 3})
    steps = of(StepEvent, run(config, tmp_path))
    assert [len(e.rollouts) for e in steps] == [4, 0, 4, 4]  # and always those of the last step
    assert steps[0].rollouts[0].record.teacher_topk.ids.shape[1] == 3
    config = settings(inputs, records={"top_k": 0, "budget_mb": 1}, steps=1)
    (step,) = of(StepEvent, run(config, tmp_path / "b"))
    assert step.rollouts[0].record.student_topk is None


def test_samples_do_not_depend_on_the_run_before(inputs, tmp_path):
    """No state but the seed: step 3's random numbers are those of (seed, 3, prompt, sample)."""
    assert (uniforms((0, 3, 5, 1), 8) == uniforms((0, 3, 5, 1), 8)).all()
    one, two = (of(StepEvent, run(settings(inputs, seed=s), tmp_path / str(s))) for s in (1, 2))
    ids = [[r.record.completion_ids.tolist() for r in e[0].rollouts] for e in (one, two)]
    assert ids[0] != ids[1]
