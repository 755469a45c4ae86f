"""One contract for whatever computes the student's completions: this process, or a vLLM server."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.worker.engines.student_server import StudentServer
from opd.config.models import LoraConfig
from opd.config.run import parse
from opd.errors import UserError
from opd.models.folders.adapters import with_adapter
from opd.models.forward import causal
from opd.models.load import Pair, load_pair
from opd.sampling.ahead import AheadSampler
from opd.sampling.sample import NEVER, Limits, Request, Sample, Stopped
from opd.sampling.samplers import LocalSampler, Sampler, sampler_of
from opd.sampling.sampling_copy import SamplingCopy
from opd.sampling.vllm.adapters import write_base
from opd.sampling.vllm.python import VARIABLE
from opd.sampling.vllm.serving import ServerSettings, Surroundings
from opd.sampling.vllm.weights import write_model
from storage.data_dir import RunDir
from tests.support.network.fake_vllm import FakeVllm

PROMPTS = [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16, 17]]
LIMITS = Limits(max_new_tokens=6, temperature=0.7, batch_size=8)
REQUESTS = [Request(p, (0, 1, n, g)) for n, p in enumerate(PROMPTS) for g in range(4)]
Engine = Callable[[Pair, Path], "contextmanager[Sampler]"]


@contextmanager
def local(pair: Pair, _: Path) -> Iterator[Sampler]:
    yield LocalSampler(pair)


@contextmanager
def fake(pair: Pair, folder: Path) -> Iterator[Sampler]:
    servers: list[FakeVllm] = []

    def serve(settings: ServerSettings) -> Path:
        settings.write_model(folder / "model")
        servers.append(FakeVllm(folder / "model", folder / "s").__enter__())
        return folder / "s"

    config = parse({"sampling": {"engine": "vllm", "lag": 1}})
    sampler = sampler_of(pair, config, PROMPTS, Surroundings(serve))
    assert isinstance(sampler, AheadSampler)
    try:
        yield sampler
    finally:
        sampler.close()
        servers[0].__exit__()


@contextmanager
def user_server(pair: Pair, folder: Path) -> Iterator[Sampler]:
    """A server that runs already, with what it starts with."""
    adapter = causal(pair.student) is not pair.student
    (write_base if adapter else write_model)(pair, folder / "model")
    with FakeVllm(folder / "model", transfer=None if adapter else "files") as server:
        config = parse({"sampling": {"engine": "vllm", "url": server.url}})
        sampler = sampler_of(pair, config, PROMPTS, Surroundings(folder=folder / "run"))
        yield sampler
        sampler.close()


@contextmanager
def real(pair: Pair, folder: Path) -> Iterator[Sampler]:
    config = parse({"sampling": {"engine": "vllm", "max_new_tokens": 6, "batch_size": 8}})
    with StudentServer(RunDir(folder), NEVER, print) as server:
        sampler = sampler_of(pair, config, PROMPTS, Surroundings(server.start))
        yield sampler
        sampler.close()


REAL = pytest.param(
    real,
    marks=[
        pytest.mark.engines,
        pytest.mark.skipif(VARIABLE not in os.environ, reason=f"{VARIABLE} is not set"),
    ],
)


def bundled() -> Pair:
    return load_pair("bundled/student", "bundled/student", device=torch.device("cpu"))


def adapted() -> Pair:
    """Only its adapter changes."""
    pair = bundled()
    student = with_adapter(pair.student, LoraConfig(rank=2, alpha=4))
    copy = SamplingCopy(student, torch.float32)
    return replace(pair, student=student, sampling_copy=copy)


@pytest.fixture(scope="module", params=[bundled, adapted])
def student(request) -> Pair:
    return request.param()


@pytest.fixture(scope="module", params=[local, fake, user_server, REAL])
def engine(request, student, tmp_path_factory) -> Iterator[tuple[Pair, Sampler]]:
    """A student, and who writes for it."""
    with request.param(student, tmp_path_factory.mktemp("engine")) as sampler:
        yield student, sampler


def as_it_is(pair: Pair) -> Any:
    """What writes, with the adapter merged."""
    return pair.sampling_copy() if pair.sampling_copy else pair.student


def gap(pair: Pair, samples: list[Sample]) -> float:
    """How far the samples' log-probabilities are from the student's own, at most."""
    model, differences = as_it_is(pair), []
    for request, s in zip(REQUESTS, samples, strict=True):
        text = [*request.prompt_ids, *s.completion_ids.tolist()]
        with torch.no_grad():
            logits = model(torch.tensor([text])).logits[0, len(request.prompt_ids) - 1 : -1]
        logp = (logits / LIMITS.temperature).log_softmax(-1)
        ours = logp.gather(1, torch.tensor(s.completion_ids)[:, None])[:, 0].numpy()
        differences.append(np.abs(ours - s.sampler_logprobs).max())
    return float(max(differences))


def test_log_probabilities_are_the_raw_ones_at_the_temperature(engine):
    pair, sampler = engine
    samples = sampler.write(REQUESTS, LIMITS, NEVER)
    assert len(samples) == len(REQUESTS) and gap(pair, samples) < 1e-4
    for s in samples:
        ids = s.completion_ids.tolist()
        ended = ids[-1] in pair.eos_ids
        assert s.finish_reason == ("stop" if ended else "length")
        assert not {*ids[:-1]} & {*pair.eos_ids}
        assert ended or len(ids) == LIMITS.max_new_tokens


def test_a_sample_is_decided_by_its_key(engine):
    _, sampler = engine
    first = [tuple(s.completion_ids) for s in sampler.write(REQUESTS, LIMITS, NEVER)]
    again = [tuple(s.completion_ids) for s in sampler.write(REQUESTS[::-1], LIMITS, NEVER)]
    assert first == again[::-1]
    assert len(set(first)) > len(REQUESTS) // 2
    other = [replace(r, key=(0, 2, *r.key[2:])) for r in REQUESTS]
    assert [tuple(s.completion_ids) for s in sampler.write(other, LIMITS, NEVER)] != first


def test_new_weights_write(engine):
    pair, sampler = engine
    before = sampler.write(REQUESTS, LIMITS, NEVER)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in pair.student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    assert gap(pair, before) > 0.1
    sampler.weights_changed()
    assert gap(pair, sampler.write(REQUESTS, LIMITS, NEVER)) < 1e-4


def test_greedy_takes_the_likeliest(engine):
    pair, sampler = engine
    [request] = REQUESTS[:1]
    [s] = sampler.write([request], replace(LIMITS, temperature=0.0), NEVER)
    text = [*request.prompt_ids, *s.completion_ids.tolist()]
    with torch.no_grad():
        logits = as_it_is(pair)(torch.tensor([text])).logits[0]
    start = len(request.prompt_ids) - 1
    assert logits[start:-1].argmax(-1).tolist() == s.completion_ids.tolist()


def test_it_stops_when_asked_to(engine):
    _, sampler = engine
    with pytest.raises(Stopped):
        sampler.write(REQUESTS, LIMITS, lambda: True)


def test_ids_that_the_teacher_lacks_are_refused_before_a_server_starts():
    pair = bundled()
    config = parse({"sampling": {"engine": "vllm"}})
    narrow = replace(pair, vocab=pair.vocab - 1)
    with pytest.raises(UserError, match="vllm would write all of the student's"):
        sampler_of(narrow, config, PROMPTS, Surroundings(lambda _: pytest.fail("started")))
    with pytest.raises(UserError, match="needs a job that starts the server"):
        sampler_of(pair, config, PROMPTS, Surroundings())
