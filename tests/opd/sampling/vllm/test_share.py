"""What a vLLM server takes of a device: by hand, in the plan, and where there is no room."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from opd.config.run import parse
from opd.doctor.machine.fit import check_gpu
from opd.doctor.memory import estimate
from opd.errors import ErrorKind, UserError
from opd.models.architecture import Architecture
from opd.models.load import load_pair
from opd.sampling.vllm import sampler
from opd.sampling.vllm.sampler import start_sampler
from opd.sampling.vllm.serving import ServerSettings, Surroundings
from opd.sampling.vllm.share import PROCESS, UNKNOWN_CACHE, ServerLoad, share_of
from tests.support import tiny_models

SHAPE = Architecture(100, 10, 4, 2, 25, 300, 1000, True)
GB = 1e9


def test_it_is_weights_cache_and_work():
    share = share_of(7_000_000, SHAPE, ServerLoad(64, 1000, 2.0))
    assert share.weights == 14_000_000
    assert share.cache == 64 * 1016 * 10 * 2 * 2 * 25 * 2
    assert share.work == PROCESS + 8192 * 2 * (600 + 900) + 64 * 1000 * 16
    assert share.total == share.weights + share.cache + share.work
    assert share_of(7_000_000, SHAPE, ServerLoad(64, 1000, 2.0, 500)).weights == 14_002_000
    assert share_of(7_000_000, None, ServerLoad(64, 1000, 2.0)).cache == UNKNOWN_CACHE


def planned(**sampling: object) -> dict[str, float]:
    config = parse({"student": "Qwen/Qwen3-4B", "sampling": sampling})
    return {p.name: p.bytes for p in estimate(config, prompt_tokens=100).parts}


def test_the_plan_counts_a_server_that_is_started_for_the_run():
    local, server = planned(), planned(engine="vllm")
    assert {*server} - {*local} == {"vLLM: weights", "vLLM: keys and values", "vLLM: workspace"}
    assert {*local} - {*server} == {"keys and values of sampling"}
    user_server = planned(engine="vllm", url="http://localhost:8000")
    assert {*local} - {*user_server} == {"keys and values of sampling"} and {*user_server} < {
        *local
    }


def test_a_gpu_that_holds_the_training_alone_is_refused_with_its_server():
    settings = {"student": {"model": "Qwen/Qwen3-4B", "lora": {}, "dtype": "bfloat16"}}
    teacher = {"teacher": {"kind": "self"}}
    alone = estimate(parse({**settings, **teacher}), prompt_tokens=100)
    both = estimate(parse({**settings, **teacher, "sampling": {"engine": "vllm"}}))
    assert check_gpu(alone, 16 * GB, 16 * GB).severity != "error"
    assert check_gpu(both, 16 * GB, 16 * GB).severity == "error"


def test_a_server_without_room_beside_the_models_is_not_started(tmp_path, monkeypatch):
    folder = Path(tiny_models.save_model(tmp_path / "student"))
    pair = load_pair(str(folder), str(folder), device=torch.device("cpu"))
    config = parse({"sampling": {"engine": "vllm", "max_new_tokens": 8, "batch_size": 4}})
    started: list[ServerSettings] = []

    def serve(settings: ServerSettings) -> Path:
        started.append(settings)
        return tmp_path / "s"

    monkeypatch.setattr(sampler, "free_memory", lambda _: (1 * GB, 24 * GB))
    with pytest.raises(UserError) as caught:
        start_sampler(pair, config, [[5, 6]], Surroundings(serve))
    assert (caught.value.where, caught.value.kind) == ("sampling.engine", ErrorKind.OUT_OF_MEMORY)
    assert "needs about 1.2 GB of the GPU's 24.0 GB" in caught.value.message
    assert "1.0 GB are free" in caught.value.message and not started
    monkeypatch.setattr(sampler, "free_memory", lambda _: (2 * GB, 24 * GB))
    start_sampler(pair, config, [[5, 6]], Surroundings(serve)).close()
    assert started[0].card_bytes == 24 * GB
    assert started[0].share == share_of(
        sum(p.numel() for p in pair.student.parameters()),
        Architecture(32, 2, 4, 2, 8, 48, 310, True),
        ServerLoad(4, 64 + 8, 4.0),
    )
    assert replace(started[0], card_bytes=None).dtype == "float32"
