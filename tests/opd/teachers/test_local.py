"""Every kind of teacher in a whole run on tiny models, against plain transformers."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from opd.config.run import parse
from opd.errors import ConfigError, UserError
from opd.teachers.local import MovingAverage
from opd.training.trainer import Training
from opd.types import EvaluationEvent, StepEvent
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE, repeatable
from tests.support.logprobs_server import LogprobsServer

pytestmark = pytest.mark.device

LORA = {"rank": 4, "alpha": 8}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    for seed, name in enumerate(("student", "teacher", "other")):
        tiny_models.save_model(root / name, seed=seed, scale=3.0)
    rows = [
        {"prompt": f"question {i}", "answer": "3", "field": "ab"[i % 2], "completion": f"so {i}"}
        for i in range(20)
    ]
    (root / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def settings(inputs, teacher="teacher", **changes):
    if isinstance(teacher, str):
        teacher = {"model": str(inputs / teacher)}
    return parse(
        {
            "student": {"model": str(inputs / "student"), **changes.pop("student", {})},
            "teacher": teacher,
            "prompts": str(inputs / "prompts.jsonl"),
            "steps": 2,
            "device": str(DEVICE),
            "threads": 1,
            "sampling": {
                "prompts_per_step": 3,
                "group_size": 2,
                "max_new_tokens": 8,
                **changes.pop("sampling", {}),
            },
            "evaluation": {"prompts": 2, "keep": 1},
            "optimizer": {"learning_rate": 1e-2, "micro_batch_tokens": 64},
            **changes,
        }
    )


def steps(config, folder):
    return [e for e in Training(config, folder).events() if isinstance(e, StepEvent)]


def plain(folder, prompt_ids, completion_ids):
    """(T,) float64 log-probabilities of the completion, by plain transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids = torch.tensor([[*prompt_ids, *completion_ids]])
    with torch.no_grad():
        logp = torch.log_softmax(model(ids).logits[0, len(prompt_ids) - 1 : -1], -1)
    return logp.gather(-1, ids[0, len(prompt_ids) :, None])[:, 0].numpy()


def all_of(events, name):
    return np.concatenate([getattr(r.record, name) for e in events for r in e.rollouts])


@pytest.mark.parametrize(
    "student",
    [
        {"lora": LORA},
        {},
        {"dtype": "bfloat16"},
        {"dtype": "bfloat16", "weights": "bfloat16"},
    ],
)
def test_the_students_own_start_gives_zero_until_it_moves(inputs, tmp_path, student):
    """With an adapter, the teacher is the same model with the adapter switched off."""
    config = settings(
        inputs,
        {"kind": "self"},
        student=student,
        objective={"name": "grpo"},
        evaluation={"prompts": 2, "keep": 2, "every": 1},
    )
    events = list(Training(config, tmp_path).events())
    looks = [e for e in events if isinstance(e, EvaluationEvent)]
    first = all_of(looks[:1], "reverse_kl")
    assert (first == 0).all()
    config = settings(inputs, {"kind": "self"}, student=student, objective={"name": "reverse_kl"})
    moved = steps(config, tmp_path / "still")
    assert all(abs(e.metrics["loss"]) < 1e-6 for e in moved)  # nothing to learn, and nothing moves
    assert all(e.metrics["grad_norm"] < 1e-4 for e in moved)
    for r in moved[0].rollouts:
        expected = plain(inputs / "student", r.prompt_ids, r.record.completion_ids)
        tolerance = 0.05 if "dtype" in student else 1e-4
        np.testing.assert_allclose(r.record.teacher_logprobs, expected, atol=tolerance)


def test_the_self_teacher_stays_while_the_adapter_moves(inputs, tmp_path):
    sft = {"name": "sft"}
    config = settings(
        inputs,
        {"kind": "self"},
        student={"lora": LORA},
        objective=sft,
        sampling={"source": "given"},
        steps=4,
        evaluation={"prompts": 2, "keep": 2},
    )
    last = [e for e in Training(config, tmp_path).events() if isinstance(e, EvaluationEvent)][-1]
    assert all_of([last], "reverse_kl").max() > 0
    for r in last.rollouts:
        expected = plain(inputs / "student", r.prompt_ids, r.record.completion_ids)
        np.testing.assert_allclose(r.record.teacher_logprobs, expected, atol=1e-4)


@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_privileged_context_is_realigned_exactly(tmp_path, kind):
    """The teacher reads a longer prompt; every completion token is scored at its own place."""
    for seed, name in enumerate(("student", "teacher")):
        tiny_models.save_model(tmp_path / name, kind, seed=seed, scale=3.0)
    rows = [{"prompt": f"question {i}", "answer": "3" * (1 + i % 7)} for i in range(20)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    teacher = {"model": str(tmp_path / "teacher"), "prompt": "Hint: {answer}. {prompt}"}
    (event, *_) = steps(settings(tmp_path, teacher), tmp_path / "run")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "teacher")
    for r in event.rollouts:
        ids = tokenizer(f"Hint: {r.answer}. {r.prompt}")["input_ids"]
        assert len(ids) > len(r.prompt_ids)
        expected = plain(tmp_path / "teacher", ids, r.record.completion_ids)
        np.testing.assert_allclose(r.record.teacher_logprobs, expected, atol=1e-4)
        student = plain(tmp_path / "student", r.prompt_ids, r.record.completion_ids)
        np.testing.assert_allclose(r.record.student_logprobs, student, atol=1e-4)


def test_a_privileged_prompt_without_its_field_or_too_long_is_named(inputs, tmp_path):
    for template, message in (
        ("{solution} {prompt}", "solution"),
        ("x" * 300_000 + "{prompt}", "tokens; its context leaves room"),
    ):
        teacher = {"model": str(inputs / "teacher"), "prompt": template[:90_000] + "{prompt}"}
        with pytest.raises(UserError, match=message) as caught:
            steps(settings(inputs, teacher), tmp_path)
        assert caught.value.kind in ("bad data", "bad input")


def test_routed_teachers_each_read_their_own(inputs, tmp_path):
    teacher = {
        "model": str(inputs / "teacher"),
        "route_by": "field",
        "routes": {"b": str(inputs / "other")},
    }
    (event, *_) = steps(settings(inputs, teacher), tmp_path)
    used = set()
    for r in event.rollouts:
        field = "ab"[int(r.prompt.removeprefix("question ")) % 2]
        used.add(field)
        folder = inputs / {"a": "teacher", "b": "other"}[field]
        expected = plain(folder, r.prompt_ids, r.record.completion_ids)
        np.testing.assert_allclose(r.record.teacher_logprobs, expected, atol=1e-4)
    assert used == {"a", "b"}


def test_routing_by_a_field_that_no_row_has_is_named(inputs, tmp_path):
    teacher = {
        "model": str(inputs / "teacher"),
        "route_by": "topic",
        "routes": {"b": str(inputs / "other")},
    }
    with pytest.raises(UserError, match="no field 'topic'") as caught:
        steps(settings(inputs, teacher), tmp_path)
    assert caught.value.where == "teacher.route_by"


def test_the_moving_average_follows_its_formula():
    model = torch.nn.Linear(3, 2)
    average = MovingAverage(model, 0.9)
    expected = {n: p.detach().clone() for n, p in model.named_parameters()}
    for _ in range(3):
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.add_(torch.randn_like(p))
                expected[n] = 0.9 * expected[n] + 0.1 * p
        average.advance()
    averaged = {n: p.detach().clone() for n, p in model.named_parameters()}
    with average.in_place():
        for n, p in model.named_parameters():
            torch.testing.assert_close(p.detach(), expected[n])
    for n, p in model.named_parameters():
        assert torch.equal(p.detach(), averaged[n])


@pytest.mark.parametrize("lora", [LORA, None])
def test_the_average_teaches_and_resumes_bit_for_bit(inputs, tmp_path, lora):
    teacher = {"kind": "ema", "ema_decay": 0.5, "prompt": "Hint: {answer}. {prompt}"}
    config = settings(inputs, teacher, student={"lora": lora}, steps=4, checkpoints={"every": 2})
    whole = steps(config, tmp_path / "whole")
    assert whole[0].metrics["loss"] > 0  # the hint makes a difference
    training = Training(config, tmp_path / "cut")
    for event in training.events():
        if isinstance(event, StepEvent) and event.step == 3:
            break
    rest = Training(config, tmp_path / "cut", resume_from=tmp_path / "cut" / "step-000002")
    again = [e for e in rest.events() if isinstance(e, StepEvent)]
    for a, b in zip(whole[2:], again, strict=True):
        assert repeatable(a.metrics) == repeatable(b.metrics)
    one, two = (
        load_file(tmp_path / d / "step-000004" / "average.safetensors") for d in ("whole", "cut")
    )
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_as_the_teacher_equals_the_model_itself(inputs, tmp_path, kind):
    objective = {"name": "teacher_top_k", "top_k": 5}
    local = steps(settings(inputs, objective=objective), tmp_path / "local")
    with LogprobsServer(inputs / "teacher", sglang=kind == "sglang") as server:
        teacher = {"kind": "remote", "url": server.url, "model": server.name, "top_k": 5}
        teacher["server"] = kind
        remote = steps(settings(inputs, teacher, objective=objective), tmp_path / "remote")
    for a, b in zip(local, remote, strict=True):
        assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], rel=1e-4)
        np.testing.assert_allclose(
            all_of([a], "teacher_logprobs"), all_of([b], "teacher_logprobs"), atol=1e-4
        )
        if kind == "vllm":
            assert (all_of([a], "teacher_rank") == all_of([b], "teacher_rank")).all()
        else:
            assert all(r.record.teacher_rank is None for r in b.rollouts)
        assert all(r.record.reverse_kl is None for r in b.rollouts)
        assert "reverse_kl" not in b.metrics
        assert b.metrics["same_top"] == pytest.approx(a.metrics["same_top"])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_server_that_gives_its_whole_vocabulary_equals_the_model_itself(
    inputs, tmp_path, temperature
):
    changes = {"objective": "reverse_kl", "sampling": {"temperature": temperature}}
    local = steps(settings(inputs, **changes), tmp_path / "local")
    tokenizer = AutoTokenizer.from_pretrained(inputs / "teacher")
    with LogprobsServer(inputs / "teacher", max_logprobs=400) as server:
        server.texts = lambda i: tokenizer.decode([i])
        teacher = {"kind": "remote", "url": server.url, "model": server.name, "top_k": 310}
        remote = steps(settings(inputs, teacher, **changes), tmp_path / "remote")
        with pytest.raises(UserError, match=r"needs the teacher's whole distribution: all 310 ids"):
            steps(settings(inputs, teacher | {"top_k": 309}, **changes), tmp_path / "refused")
    for a, b in zip(local, remote, strict=True):
        assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], abs=2e-5)
        for name in ("teacher_logprobs", "reverse_kl", "teacher_entropy"):
            np.testing.assert_allclose(all_of([a], name), all_of([b], name), atol=2e-5)
        assert (all_of([a], "teacher_rank") == all_of([b], "teacher_rank")).all()


def test_a_server_trains_the_policy_gradient_from_the_sampled_token_alone(inputs, tmp_path):
    objective = {"name": "policy_gradient", "gamma": 0.5}
    local = steps(settings(inputs, objective=objective), tmp_path / "local")
    with LogprobsServer(inputs / "teacher") as server:
        teacher = {"kind": "remote", "url": server.url, "model": server.name, "top_k": 0}
        remote = steps(settings(inputs, teacher, objective=objective), tmp_path / "remote")
    np.testing.assert_allclose(all_of(local, "advantages"), all_of(remote, "advantages"), atol=1e-3)


def test_what_a_server_cannot_give_is_refused_beforehand(inputs):
    remote = {"kind": "remote", "url": "http://localhost:1/v1"}
    for changes, field in (
        ({"objective": "reverse_kl"}, "objective.name"),
        ({"objective": {"name": "teacher_top_k", "top_k": 21}}, "objective.top_k"),
        (
            {"objective": "policy_gradient", "sampling": {"temperature": 0.7}},
            "sampling.temperature",
        ),
        ({"objective": "sft", "sampling": {"source": "teacher"}}, "sampling.source"),
    ):
        with pytest.raises(ConfigError) as caught:
            settings(inputs, remote, **changes)
        assert [p["field"] for p in caught.value.problems] == [field]


def test_discount_follows_the_definition(inputs, tmp_path):
    (event, *_) = steps(
        settings(inputs, objective={"name": "policy_gradient", "gamma": 0.5}), tmp_path
    )
    for r in event.rollouts:
        d = r.record.sampler_logprobs - r.record.teacher_logprobs
        for t in range(len(d)):
            expected = -sum(0.5**k * d[t + k] for k in range(len(d) - t))
            assert r.record.advantages[t] == pytest.approx(expected, abs=1e-4)


def test_teacher_samples_are_marked_and_trained_by_likelihood(inputs, tmp_path):
    (event, *_) = steps(settings(inputs, objective="sft"), tmp_path)
    assert {r.author for r in event.rollouts} == {"teacher"}
    for r in event.rollouts:
        expected = plain(inputs / "teacher", r.prompt_ids, r.record.completion_ids)
        np.testing.assert_allclose(r.record.sampler_logprobs, expected, atol=1e-4)
        assert r.record.reverse_kl is None  # the teacher was not asked again
    loss = -all_of([event], "student_logprobs").mean()
    assert event.metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert event.metrics["by_teacher"] == 1


def test_a_share_of_prompts_is_written_by_the_teacher(inputs, tmp_path):
    config = settings(inputs, sampling={"teacher_share": 0.5, "prompts_per_step": 6}, steps=3)
    events = steps(config, tmp_path)
    by_group = {(e.step, r.group, r.author) for e in events for r in e.rollouts}
    assert len(by_group) == 18  # a group has one author
    shares = [e.metrics["by_teacher"] for e in events if "by_teacher" in e.metrics]
    assert 0 < np.mean(shares) < 1
    for r in events[0].rollouts:
        expected = plain(inputs / r.author, r.prompt_ids, r.record.completion_ids)
        np.testing.assert_allclose(r.record.sampler_logprobs, expected, atol=1e-4)


def test_given_completions_are_trained_as_they_stand(inputs, tmp_path):
    config = settings(
        inputs, {"kind": "none"}, objective="sft", sampling={"source": "given"}, steps=3
    )
    events = steps(config, tmp_path)
    assert {r.author for e in events for r in e.rollouts} == {"given"}
    for r in events[0].rollouts:
        assert r.completion == f"so {r.prompt.removeprefix('question ')}"
        assert r.record.completion_ids[-1] == tiny_models.EOS
        assert r.record.teacher_logprobs is None
        assert r.record.sampler_logprobs is None
    assert events[-1].metrics["loss"] < events[0].metrics["loss"]


def test_rewards_alone_train_without_asking_a_teacher(inputs, tmp_path):
    config = settings(inputs, objective={"name": "grpo", "clip": 0.2, "reference_kl": 0.1})
    (event, *_) = steps(config, tmp_path)
    assert event.seconds["teacher"] < event.seconds["student"] * 5
    assert all(r.record.teacher_logprobs is None for r in event.rollouts)
    assert all(r.record.advantages is not None for r in event.rollouts)
    assert event.metrics["reward"] == 0
    assert (all_of([event], "advantages") == 0).all()  # equal rewards say nothing


def test_bfloat16_computes_but_keeps_its_weights_in_float32(inputs, tmp_path):
    config = settings(inputs, student={"dtype": "bfloat16"}, steps=2)
    training = Training(config, tmp_path)
    events = [e for e in training.events() if isinstance(e, StepEvent)]
    saved = load_file(tmp_path / "step-000002" / "model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float32}
    full = steps(settings(inputs), tmp_path / "full")
    assert events[0].metrics["reverse_kl"] == pytest.approx(full[0].metrics["reverse_kl"], rel=0.1)
    assert events[0].metrics["reverse_kl"] != full[0].metrics["reverse_kl"]
    lora = {"dtype": "bfloat16", "lora": LORA}
    assert len(steps(settings(inputs, student=lora), tmp_path / "lora")) == 2
    saved = load_file(tmp_path / "lora" / "step-000002" / "adapter_model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float32}


def test_bfloat16_weights_are_trained_saved_and_resumed_bit_for_bit(inputs, tmp_path):
    student = {"dtype": "bfloat16", "weights": "bfloat16"}
    config = settings(inputs, student=student, steps=3, checkpoints={"every": 2})
    whole = steps(config, tmp_path / "whole")
    saved = load_file(tmp_path / "whole" / "step-000003" / "model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.bfloat16}
    moments = load_file(tmp_path / "whole" / "step-000003" / "optimizer.safetensors")
    assert {t.dtype for t in moments.values() if t.ndim} == {torch.bfloat16}
    before = tmp_path / "whole" / "step-000002"
    rest = Training(config, tmp_path / "rest", resume_from=before)
    (again,) = [e for e in rest.events() if isinstance(e, StepEvent)]
    assert repeatable(again.metrics) == repeatable(whole[2].metrics)
    resumed = load_file(tmp_path / "rest" / "step-000003" / "model.safetensors")
    assert all(torch.equal(saved[name], resumed[name]) for name in saved)


@pytest.mark.parametrize("kind", tiny_models.KINDS)
def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path, kind):
    """Dropout stays off, though transformers checkpoints in training mode alone."""
    for seed, name in enumerate(("student", "teacher")):
        tiny_models.save_model(tmp_path / name, kind, seed=seed, scale=3.0)
    rows = [{"prompt": f"question {i}"} for i in range(20)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    plain_run, saving = (
        steps(settings(tmp_path, student={"gradient_checkpointing": on}), tmp_path / f"run-{on}")
        for on in (False, True)
    )
    for a, b in zip(plain_run, saving, strict=True):
        assert a.metrics["loss"] == pytest.approx(b.metrics["loss"], rel=1e-5)
        assert a.metrics["grad_norm"] == pytest.approx(b.metrics["grad_norm"], rel=1e-4)
        assert b.flops > a.flops  # what is computed twice is counted twice


def test_a_prompt_that_one_model_cannot_read_is_refused_before_any_step(inputs, tmp_path):
    short = tiny_models.save_model(tmp_path / "short", "gpt2")
    rows = [{"prompt": "y" * (250 if i == 3 else 5), "answer": "3"} for i in range(8)]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "eval.jsonl").write_text(json.dumps({"prompt": "y", "answer": "3"}))
    prompts = {"source": str(tmp_path / "long.jsonl"), "eval_source": str(tmp_path / "eval.jsonl")}
    config = settings(inputs, {"model": short}, prompts=prompts)
    with pytest.raises(UserError, match=r"the models' context leaves room for 248") as caught:
        steps(config, tmp_path / "a")
    assert "long.jsonl:4" in caught.value.where
    config = settings(inputs, {"model": short}, prompts=prompts | {"overlong": "drop"})
    assert len(steps(config, tmp_path / "b")) == 2
    hinted = {"model": short, "prompt": "{prompt}{prompt}"}
    with pytest.raises(UserError, match="its context leaves room for 248"):
        steps(settings(inputs, hinted, prompts=prompts), tmp_path / "c")
    assert not list((tmp_path / "c").glob("step-*"))


def test_a_token_that_one_model_has_no_row_for_is_refused_before_any_step(inputs, tmp_path):
    small = tiny_models.save_model(tmp_path / "small", vocab=50)
    config = settings(inputs, {"model": small})
    with pytest.raises(UserError, match=r"beyond the 50 ids that the models share") as caught:
        steps(config, tmp_path / "a")
    assert "prompts.jsonl:" in caught.value.where


def test_further_stop_ids_end_a_completion(inputs, tmp_path):
    (event, *_) = steps(settings(inputs), tmp_path / "a")
    often = int(
        np.bincount(np.concatenate([r.record.completion_ids for r in event.rollouts])).argmax()
    )
    config = settings(inputs, sampling={"stop_ids": [often]})
    (event, *_) = steps(config, tmp_path / "b")
    ended = [r for r in event.rollouts if r.record.completion_ids[-1] == often]
    assert ended
    assert all(r.finish_reason == "stop" for r in ended)
    assert all(often not in r.record.completion_ids[:-1] for r in event.rollouts)
    with pytest.raises(UserError, match="id 310 is outside") as caught:
        steps(settings(inputs, sampling={"stop_ids": [310]}), tmp_path / "c")
    assert caught.value.where == "sampling.stop_ids"
