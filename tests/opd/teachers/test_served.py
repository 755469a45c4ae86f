"""A run whose teacher is in a server of its own trains as with the model in the process."""

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from opd.config.run import parse
from opd.doctor.memory import estimate
from opd.errors import ConfigError, UserError
from opd.teachers.served import ServedModel, with_local_teachers
from opd.teachers.serving import SERVED_NAME, TeacherServing
from opd.training.trainer import Training
from opd.types import StepEvent
from tests.support import tiny_models
from tests.support.logprobs_server import LogprobsServer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("served")
    for seed, name in enumerate(("student", "teacher")):
        tiny_models.save_model(root / name, seed=seed, scale=3.0)
    rows = [{"prompt": f"question {i}", "answer": "3"} for i in range(8)]
    (root / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


def settings(inputs: Path, **changes):
    return parse(
        {
            "student": {"model": str(inputs / "student")},
            "teacher": {"model": str(inputs / "teacher"), **changes.pop("teacher", {})},
            "prompts": str(inputs / "prompts.jsonl"),
            "steps": 1,
            "device": "cpu",
            "threads": 1,
            "sampling": {"prompts_per_step": 3, "group_size": 2, "max_new_tokens": 8},
            "evaluation": {"prompts": 2, "keep": 1},
            **changes,
        }
    )


class ServerOfTheJob:
    """Stands for what the job starts: the same answers, by a port."""

    def __init__(self, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stack, self.monkeypatch = stack, monkeypatch
        self.servings: list[TeacherServing] = []

    def __call__(self, serving: TeacherServing) -> Path:
        self.servings.append(serving)
        server = LogprobsServer(str(serving.model), name=SERVED_NAME, max_logprobs=serving.top_k)
        self.stack.enter_context(server)
        port = server.url.removeprefix("http://127.0.0.1:").removesuffix("/v1")
        self.monkeypatch.setattr("opd.teachers.endpoint.listens", lambda _: True)
        self.monkeypatch.setattr("opd.teachers.endpoint.socket_transport", lambda _: None)
        self.monkeypatch.setattr("opd.teachers.served.ADDRESS", f"http://127.0.0.1:{port}/v1")
        return Path("socket")


@pytest.fixture
def serve(monkeypatch):
    with contextlib.ExitStack() as stack:
        yield ServerOfTheJob(stack, monkeypatch)


@pytest.mark.parametrize(
    ("objective", "k"),
    [("reverse_kl", 310), ({"name": "teacher_top_k", "top_k": 32}, 32), ("policy_gradient", 20)],
)
def test_it_trains_as_with_the_model_in_the_process(inputs, tmp_path, serve, objective, k):
    def step(engine: str, **more: object) -> StepEvent:
        config = settings(inputs, teacher={"engine": engine}, objective=objective)
        events = Training(config, tmp_path / engine, **more).events()
        return next(e for e in events if isinstance(e, StepEvent))

    local, served = step("local"), step("vllm", serve_teacher=serve)
    assert served.metrics["loss"] == pytest.approx(local.metrics["loss"], rel=1e-3, abs=2e-5)
    for a, b in zip(local.rollouts, served.rollouts, strict=True):
        theirs = b.record.teacher_logprobs
        np.testing.assert_allclose(a.record.teacher_logprobs, theirs, atol=5e-5)
    (serving,) = serve.servings
    assert serving.top_k == k and serving.context > 9 and serving.device == "cpu"


def test_it_needs_a_job_and_asks_elsewhere_for_the_model(inputs, tmp_path):
    config = settings(inputs, teacher={"engine": "vllm"})
    with pytest.raises(UserError, match="needs a job that starts the server") as caught:
        list(Training(config, tmp_path).events())
    assert caught.value.where == "teacher.engine"
    assert with_local_teachers(config) == settings(inputs)
    assert with_local_teachers(settings(inputs)) == settings(inputs)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"teacher": {"engine": "vllm", "kind": "self"}}, "teacher.engine"),
        ({"teacher": {"engine": "vllm", "quantize": "int8"}}, "teacher.quantize"),
        ({"teacher": {"engine": "vllm", "offload": True}}, "teacher.offload"),
        ({"teacher": {"engine": "vllm", "model": "x.gguf"}}, "teacher.model"),
        ({"teacher": {"engine": "vllm"}, "devices": 2}, "devices"),
        ({"teacher": {"engine": "vllm"}, "device": "mps"}, "device"),
        ({"teacher": {"engine": "vllm"}, "objective": "sft"}, "sampling.source"),
        (
            {"teacher": {"engine": "vllm"}, "evaluation": {"teacher": True}},
            "evaluation.teacher",
        ),
    ],
)
def test_what_no_server_does_is_refused_at_its_field(changes, field):
    with pytest.raises(ConfigError) as caught:
        parse(changes)
    assert field in [p["field"] for p in caught.value.problems]


def test_a_whole_vocabulary_that_no_server_gives_is_refused(inputs):
    model = ServedModel("teacher", settings(inputs).teacher, inputs / "teacher", 2000)
    with pytest.raises(UserError, match=r"at most 1,024 of its 2,000 ids"):
        model.asked_for(settings(inputs, objective="reverse_kl"))
    assert model.asked_for(settings(inputs, objective="policy_gradient")).top_k == 20


def test_an_adapter_is_refused(inputs, tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(inputs / "teacher"), "peft_type": "LORA"})
    )
    save_file({"x.lora_A.weight": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")
    config = settings(inputs, teacher={"model": str(tmp_path), "engine": "vllm"})
    with pytest.raises(UserError, match="is an adapter, which engine vllm does not") as caught:
        list(Training(config, tmp_path / "run").events())
    assert caught.value.where == "teacher.model"


def test_the_plan_has_its_weights_in_the_server_only():
    def parts(engine: str) -> dict[str, float]:
        plan = estimate(parse({"teacher": {"engine": engine}}))
        return {p.name: p.bytes for p in plan.parts if p.name.startswith("teacher")}

    assert list(parts("vllm")) == ["teacher: weights, in vLLM"]
    assert sum(parts("vllm").values()) < sum(parts("local").values())
