"""Probe prompts: answered once by the first student, scored again at every evaluation."""

import json

import numpy as np
import pytest
import torch

from bench import kills
from opd.config.run import parse
from opd.data.prompts import load_prompts
from opd.models.load import load_model
from opd.training.checkpoint import Progress, progress_of
from opd.training.held_out.probes import Answer
from opd.training.trainer import Training
from opd.types import CheckpointEvent, EvaluationEvent, StepEvent
from storage.queue import jobs
from storage.read.rollouts import read_rollouts
from storage.read.tokens import read_tokens
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE
from tests.support.in_process_runs import JobRunner, dying, write_rows

pytestmark = pytest.mark.device

PROBES = 3
SAMPLES = 2


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tiny_models.save_pair(tmp_path_factory.mktemp("models"))
    write_rows(root / "more.jsonl", [{"prompt": f"question {i}", "answer": "3"} for i in range(30)])
    return root


def settings(inputs, **changes):
    return {
        "student": str(inputs / "student"),
        "teacher": str(inputs / "teacher"),
        "prompts": {"source": str(inputs / "more.jsonl"), "probe": PROBES, "eval_share": 0.3},
        "steps": 4,
        "device": str(DEVICE),
        "threads": 1,
        "sampling": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 10},
        "evaluation": {"prompts": 3, "every": 2, "keep": 2, "samples": SAMPLES},
        "checkpoints": {"every": 1, "keep": 9},
        "optimizer": {"learning_rate": 1e-2, "micro_batch_tokens": 256},
        **changes,
    }


@pytest.fixture(scope="module")
def events(inputs, tmp_path_factory):
    """The evaluations by step, and the folder of the checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    trained = list(Training(parse(settings(inputs)), folder).events())
    return {e.step: e for e in trained if isinstance(e, EvaluationEvent) and e.scores}, folder


def of_kind(event, kind):
    return {(r.group, r.sample): r for r in event.rollouts if r.kind == kind}


def log_probs(folder, rollout):
    """(T, V) of the completion by a model that transformers alone runs."""
    model = load_model(folder, where="test").double()
    ids = torch.tensor([*rollout.prompt_ids, *rollout.record.completion_ids])[None]
    with torch.no_grad():
        logits = model(ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits[:, :310], -1).numpy()


def test_the_first_answers_stay_and_are_scored_by_each_step_s_student(inputs, events):
    evaluations, folder = events
    assert sorted(evaluations) == [0, 2, 4]
    first = of_kind(evaluations[0], "probe")
    assert len(first) == PROBES
    students = {0: inputs / "student"} | {s: folder / f"step-{s:06d}" for s in (2, 4)}
    moved = 0.0
    for step, event in evaluations.items():
        probes = of_kind(event, "probe")
        assert probes.keys() == first.keys()
        for key, rollout in probes.items():
            begun = first[key]
            assert rollout.step == step
            assert rollout.completion == begun.completion
            assert rollout.finish_reason == begun.finish_reason
            np.testing.assert_array_equal(
                rollout.record.completion_ids, begun.record.completion_ids
            )
            assert rollout.record.sampler_logprobs is None
            p = log_probs(students[step], rollout)
            q = log_probs(inputs / "teacher", rollout)
            at = np.arange(len(p)), rollout.record.completion_ids
            np.testing.assert_allclose(rollout.record.student_logprobs, p[at], atol=2e-4)
            np.testing.assert_allclose(rollout.record.teacher_logprobs, q[at], atol=2e-4)
            kl = (np.exp(p) * (p - q)).sum(-1)
            np.testing.assert_allclose(rollout.record.reverse_kl, kl, atol=5e-4)
            difference = rollout.record.reverse_kl - begun.record.reverse_kl
            moved = max(moved, float(np.abs(difference).max()))
    assert moved > 0.05


def test_each_evaluation_keeps_new_answers_to_the_same_prompts(events):
    evaluations, _ = events
    groups = {group for group, _ in of_kind(evaluations[0], "probe")}
    start = of_kind(evaluations[0], "eval")
    changed = 0
    for event in evaluations.values():
        fresh = {k: r for k, r in of_kind(event, "eval").items() if k[0] in groups}
        assert len(fresh) == PROBES * SAMPLES
        assert len(event.rollouts) == len({(r.kind, r.group, r.sample) for r in event.rollouts})
        assert len(event.rollouts) == 2 + PROBES + PROBES * SAMPLES
        for (group, sample), rollout in fresh.items():
            assert rollout.record.sampler_logprobs is not None
            changed += rollout.completion != start[group, sample].completion
    for group, rollout in ((g, r) for (g, _), r in of_kind(evaluations[0], "probe").items()):
        assert rollout.completion == start[group, 0].completion
    assert changed


def test_probes_do_not_change_the_training(inputs, tmp_path):
    """The same prompts with and without: what is trained on is the same, token by token."""
    apart = {"source": str(inputs / "more.jsonl"), "eval_source": str(inputs / "prompts.jsonl")}
    trainings = []
    for probes in (0, PROBES):
        config = settings(inputs, prompts=apart | {"probe": probes}, steps=2)
        events = list(Training(parse(config), tmp_path / str(probes)).events())
        trainings.append(
            [
                (r.record.completion_ids.tolist(), r.record.student_logprobs.tolist())
                for e in events
                if isinstance(e, StepEvent)
                for r in e.rollouts
            ]
        )
    assert trainings[0] == trainings[1]


@pytest.mark.parametrize(
    "when",
    [
        lambda e: isinstance(e, CheckpointEvent) and e.step == 1,
        lambda e: isinstance(e, StepEvent) and e.step == 1,
        lambda e: isinstance(e, EvaluationEvent) and e.scores and e.step == 2,
    ],
    ids=["after a checkpoint", "before the first one", "after an evaluation"],
)
def test_a_resumed_run_has_the_same_probes(inputs, tmp_path, when):
    states = []
    for name in ("whole", "broken"):
        runner = JobRunner(tmp_path / name, inputs)
        run_id = jobs.create_run(runner.engine, parse(settings(inputs)))
        if name == "broken":
            assert runner.attempt(run_id, dying(when))["status"] == "failed"
        assert runner.attempt(run_id)["status"] == "finished"
        states.append(stored_probes(runner, run_id) | checkpoints(runner, run_id))
        runner.engine.dispose()
    assert len([name for name in states[0] if name.startswith("probe")]) == PROBES * 3
    assert states[0] == states[1]


def stored_probes(runner, run_id):
    """Ids and figures of the stored probes and of the new answers, by place."""
    texts = {}
    for item in read_rollouts(runner.engine, run_id, limit=1000)["items"]:
        if item["kind"] not in ("probe", "eval"):
            continue
        columns = read_tokens(runner.engine, item["id"]).columns
        key = f"{item['kind']}/{item['step']}/{item['group']}/{item['sample']}"
        assert key not in texts
        texts[key] = {name: column.tobytes() for name, column in columns.items()}
    return texts


def checkpoints(runner, run_id):
    """Without the run's id, which is in no file."""
    return {f"file/{n}": d for n, d in kills.files(runner.data_dir, run_id).items()}


def test_a_checkpoint_carries_the_answers(events):
    evaluations, folder = events
    answers = progress_of(folder / "step-000003").answers
    begun = [r for r in evaluations[0].rollouts if r.kind == "probe"]
    assert answers == tuple(
        Answer(tuple(r.record.completion_ids.tolist()), r.finish_reason) for r in begun
    )


def test_a_checkpoint_of_before_there_were_answers_still_loads(tmp_path):
    (tmp_path / "trainer.json").write_text(json.dumps({"step": 4, "score": 0.5, "owes": False}))
    assert progress_of(tmp_path) == Progress(4, 0.5)


def test_without_a_number_a_few_prompts_are_probes(inputs):
    def counts(held_out, **prompts):
        config = parse({"prompts": prompts, "evaluation": {"prompts": held_out}})
        prompt_set = load_prompts(config, tiny_models.tokenizer(), 4096)
        return len(prompt_set.held_out), len(prompt_set.probe)

    assert counts(10, count=5) == (10, 4)
    assert counts(10, count=5, probe=0) == (10, 0)
    source = {"source": str(inputs / "more.jsonl")}
    assert counts(10, **source, eval_share=0.1) == (3, 0)
    assert counts(10, **source, eval_share=0.3) == (7, 2)
    assert counts(2, **source, eval_share=0.3) == (2, 1)
