"""sampling.lag: the next step's rollouts are written while this one trains, by older weights."""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from app.worker.engines.student_server import StudentServer
from opd.config.run import RunConfig, parse
from opd.errors import ConfigError, UserError
from opd.models.load import Pair
from opd.sampling.ahead import AheadSampler, Writing
from opd.sampling.sample import NEVER, Limits, Request, Sample, Stopped
from opd.sampling.samplers import LocalSampler
from opd.sampling.vllm.python import VARIABLE
from opd.training.rollouts import EVALUATION
from opd.training.trainer import Training
from opd.types import EvaluationEvent, StepEvent
from storage.data_dir import RunDir
from tests.support import tiny_models

EMBEDDING = "model.embed_tokens.weight"
PATIENCE = 20  # seconds, after which what should go on has not


class Detached:
    """Writes at once by the student as it is then, and notes its weights; what is asked for on
    another thread is handed over only once the student has changed."""

    def __init__(self, pair: Pair) -> None:
        self.pair, self.local = pair, LocalSampler(pair)
        self.wrote: dict[int, list[torch.Tensor]] = {}  # by the step of the keys
        self.changed, self.closed = threading.Event(), False
        self.dies_at, self.stopped = 0, False

    def begun(self, requests: Sequence[Request], limits: Limits) -> Writing:
        step = requests[0].key[1]
        weights = dict(self.pair.student.named_parameters())[EMBEDDING]
        self.wrote.setdefault(step, []).append(weights.detach().clone())
        samples = self.local.write(requests, limits, NEVER)
        self.changed.clear()
        trainer = threading.current_thread()

        def writing(stop: Callable[[], bool]) -> list[Sample]:
            if step == self.dies_at:
                raise UserError("the vLLM server was killed", where="sampling.engine")
            if threading.current_thread() is not trainer:
                for _ in range(PATIENCE * 100):
                    if self.changed.wait(0.01):
                        break
                    if stop():
                        self.stopped = True
                        raise Stopped
                else:
                    raise AssertionError("nothing was trained meanwhile")
            return samples

        return writing

    def weights_changed(self) -> None:
        self.changed.set()

    def close(self) -> None:
        self.closed = True


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_pair(tmp_path_factory.mktemp("lag"))


@pytest.fixture
def detached(monkeypatch: pytest.MonkeyPatch) -> list[Detached]:
    """The samplers that the trainings of a test get."""
    made: list[Detached] = []

    def sampler_of(pair: Pair, *_: Any) -> AheadSampler:
        made.append(Detached(pair))
        return AheadSampler(made[-1])

    monkeypatch.setattr("opd.training.trainer.sampler_of", sampler_of)
    return made


def config(inputs: Path, **changes: Any) -> RunConfig:
    sampling = {"prompts_per_step": 3, "group_size": 2, "max_new_tokens": 8}
    settings = {
        "student": str(inputs / "student"),
        "teacher": str(inputs / "teacher"),
        "prompts": str(inputs / "prompts.jsonl"),
        "steps": 4,
        "device": "cpu",
        "threads": 1,
        "sampling": sampling | {"engine": "vllm", "lag": 1},
        "evaluation": {"prompts": 2, "every": 2, "keep": 1},
        "checkpoints": {"every": 1, "keep": 10},
        "optimizer": {"learning_rate": 1e-2},
    }
    return parse(settings | changes)


def steps_of(training: Training) -> list[StepEvent]:
    return [e for e in training.events() if isinstance(e, StepEvent)]


def weights_after(folder: Path, inputs: Path, step: int) -> torch.Tensor:
    model = folder / f"step-{step:06}" if step else inputs / "student"
    return load_file(model / "model.safetensors")[EMBEDDING]


def staleness(event: StepEvent) -> set[int | None]:
    return {r.staleness for r in event.rollouts}


def test_each_step_is_written_by_the_weights_of_the_step_before(inputs, tmp_path, detached):
    steps = steps_of(Training(config(inputs), tmp_path))
    (sampler,) = detached
    written = {s: w for s, w in sampler.wrote.items() if s < EVALUATION}
    assert sorted(written) == [1, 2, 3, 4] and sampler.closed
    for step, (weights,) in written.items():
        assert torch.equal(weights, weights_after(tmp_path, inputs, max(step - 2, 0)))
    assert [staleness(e) for e in steps] == [{0}, {1}, {1}, {1}]
    assert [e.metrics["staleness"] for e in steps] == [0, 1, 1, 1]
    gaps = [e.metrics["sampler_gap"] for e in steps]
    assert gaps[0] < 1e-3 and min(gaps[1:]) > 0.01
    assert "writing_seconds" not in steps[0].metrics
    assert all(e.metrics["writing_seconds"] > 0 for e in steps[1:])
    assert all({*e.seconds} == {"sample", "teacher", "student", "optimizer"} for e in steps)


def test_evaluations_are_by_the_weights_that_they_are_of(inputs, tmp_path, detached):
    events = list(Training(config(inputs), tmp_path).events())
    (sampler,) = detached
    evaluated = [e for e in events if isinstance(e, EvaluationEvent) and e.scores]
    assert [e.step for e in evaluated] == [0, 2, 4]
    wrote = sampler.wrote[EVALUATION]
    for step, weights in ((0, wrote[0]), (2, wrote[-3]), (4, wrote[-1])):
        assert torch.equal(weights, weights_after(tmp_path, inputs, step))
    assert {r.staleness for e in evaluated for r in e.rollouts} == {None}


def test_a_resumed_run_writes_its_first_step_by_the_weights_that_it_has(inputs, tmp_path, detached):
    whole = steps_of(Training(config(inputs), tmp_path / "whole"))
    training = Training(config(inputs), tmp_path / "cut")
    for event in training.events():
        if isinstance(event, StepEvent) and event.step == 3:
            break  # with step 4's rollouts on their way: both are lost
    cut = Training(config(inputs), tmp_path / "cut", resume_from=tmp_path / "cut" / "step-000002")
    rest = steps_of(cut)
    assert [e.step for e in rest] == [3, 4]
    assert [staleness(e) for e in rest] == [{0}, {1}]
    assert rest[0].metrics["sampler_gap"] < 1e-3
    for a, b in zip(whole[2:], rest, strict=True):
        assert [(r.group, r.sample) for r in a.rollouts] == [
            (r.group, r.sample) for r in b.rollouts
        ]


def test_a_stop_within_a_step_leaves_nothing_behind(inputs, tmp_path, detached):
    seen: list[int] = []
    training = Training(config(inputs), tmp_path, stop=lambda: len(seen) == 1)
    for event in training.events():
        seen += [event.step] if isinstance(event, StepEvent) else []
    assert seen == [1]
    (sampler,) = detached
    assert sampler.closed
    assert not [t for t in threading.enumerate() if t.name == "rollouts-ahead"]
    assert not (tmp_path / "step-000002").exists()


def test_a_server_that_dies_while_a_step_trains_costs_no_step(inputs, tmp_path, detached):
    seen: list[int] = []
    with pytest.raises(UserError, match="was killed"):
        for event in Training(config(inputs), tmp_path).events():
            for sampler in detached:
                sampler.dies_at = 4
            seen += [event.step] if isinstance(event, StepEvent) else []
    assert seen == [1, 2, 3] and (tmp_path / "step-000003").exists() and detached[0].closed


def test_the_local_loop_is_refused():
    with pytest.raises(ConfigError) as caught:
        parse({"sampling": {"lag": 1}})
    [problem] = caught.value.problems
    assert problem["field"] == "sampling.lag"
    assert problem["message"].startswith("needs sampling.engine vllm: ")
    assert parse({"sampling": {"lag": 1, "engine": "vllm"}}).sampling.lag == 1


@pytest.mark.engines
@pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set")
def test_three_steps_with_a_real_server(tmp_path):
    """The bundled student; weights are compared with the server's after every step."""
    chosen = parse(
        {
            "steps": 3,
            "device": "cpu",
            "sampling": {"engine": "vllm", "lag": 1, "prompts_per_step": 8, "group_size": 2}
            | {"max_new_tokens": 16},
            "objective": {"name": "policy_gradient", "ratio_cap": 1.5},
            "evaluation": {"prompts": 4, "temperatures": [1.0], "teacher": False},
            "student": "bundled/student",
            "teacher": "bundled/teacher",
        }
    )
    with StudentServer(RunDir(tmp_path / "job"), NEVER, print) as server:
        steps = steps_of(Training(chosen, tmp_path / "run", serve=server.start))
    assert [staleness(e) for e in steps] == [{0}, {1}, {1}]
    gaps = [e.metrics["sampler_gap"] for e in steps]
    assert gaps[0] < 1e-3 < min(gaps[1:])
    assert all(e.metrics["writing_seconds"] > 0 for e in steps[1:])
    assert all(0 <= e.metrics["ratio_truncated"] < 1 for e in steps)
