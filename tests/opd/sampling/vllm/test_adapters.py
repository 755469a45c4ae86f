"""Which adapters vLLM takes as they are, and what it gets of a student with one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.config.models import LoraConfig
from opd.errors import ErrorKind, UserError
from opd.models.folders.adapters import with_adapter
from opd.models.load import Pair, load_pair
from opd.sampling.sample import NEVER, Limits, Request
from opd.sampling.vllm.adapters import AdapterFiles, highest, refusal, served_rank, write_base
from opd.sampling.vllm.address import ServerAddress
from opd.sampling.vllm.client import VllmClient
from opd.sampling.vllm.sampler import VllmSampler
from tests.support import tiny_models
from tests.support.network.fake_vllm import FakeVllm

LIMITS = Limits(max_new_tokens=4, temperature=1.0, batch_size=8)
PROMPTS = [[5, 6, 7, 8, 9], [10, 11, 12, 13]]
REQUESTS = [Request(p, (0, 1, n, g)) for n, p in enumerate(PROMPTS) for g in range(2)]


def adapted(folder: Path, kind: str = "qwen3", **lora: object) -> Pair:
    path = tiny_models.save_model(folder, kind)
    pair = load_pair(path, path, device=torch.device("cpu"))
    return replace(pair, student=with_adapter(pair.student, LoraConfig.model_validate(lora)))


def moved(pair: Pair) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in pair.student.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Pair, FakeVllm, VllmSampler]]:
    pair = adapted(tmp_path / "student", rank=4)
    write_base(pair, tmp_path / "base")
    with FakeVllm(tmp_path / "base", tmp_path / "s") as fake:
        client = VllmClient(ServerAddress(tmp_path / "s"))
        sender = AdapterFiles(client, tmp_path, "ours")
        sampler = VllmSampler(pair, client, sender, PROMPTS, has_weights=False)
        yield pair, fake, sampler
        sampler.close()


def test_the_base_is_what_lies_beneath_the_adapter(tmp_path):
    pair = adapted(tmp_path / "student", rank=4)
    moved(pair)
    write_base(pair, tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base").state_dict()
    first = AutoModelForCausalLM.from_pretrained(tmp_path / "student").state_dict()
    assert base.keys() == first.keys()
    assert all(torch.equal(base[name], first[name]) for name in base)


def test_each_update_is_an_adapter_of_its_own_and_the_one_before_goes(server, tmp_path):
    pair, fake, sampler = server
    for _ in range(3):
        sampler.write(REQUESTS, LIMITS, NEVER)
        sampler.write(REQUESTS, LIMITS, NEVER)
        moved(pair)
        sampler.weights_changed()
    updates = [
        (path, b["lora_name"]) for path, b in fake.requests if path.endswith("_lora_adapter")
    ]
    load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
    assert updates == [
        *((load, "ours-1"), (unload, "ours-1"), (load, "ours-2")),
        *((unload, "ours-2"), (load, "ours-3")),
    ]
    assert {b["model"] for path, b in fake.requests if path == "/v1/completions"} == {
        *("ours-1", "ours-2", "ours-3")
    }
    assert [p.name for p in tmp_path.glob("adapter-*")] == ["adapter-3"]
    assert not [path for path, _ in fake.requests if path == "/update_weights"]


def test_a_server_that_ignores_the_new_adapter_is_found_out(server):
    pair, fake, sampler = server
    sampler.write(REQUESTS, LIMITS, NEVER)
    fake.faults.ignores_updates = True
    moved(pair)
    sampler.weights_changed()
    with pytest.raises(UserError, match="does not compute what the student computes"):
        sampler.write(REQUESTS, LIMITS, NEVER)


def test_an_adapter_that_the_server_was_not_started_for_is_refused_in_its_words(server):
    _, fake, sampler = server
    fake.faults.highest_rank = 2
    with pytest.raises(UserError, match="LoRA rank 4 is greater than max_lora_rank") as caught:
        sampler.write(REQUESTS, LIMITS, NEVER)
    assert caught.value.kind is ErrorKind.SAMPLING_SERVER


def test_what_vllm_does_not_take_as_it_is_has_a_reason(tmp_path):
    assert refusal(adapted(tmp_path / "taken", rank=4)) is None
    assert refusal(adapted(tmp_path / "some", rank=4, targets=["q_proj", "up_proj"])) is None
    assert "may not know adapters of GPT2" in str(refusal(adapted(tmp_path / "gpt2", "gpt2")))
    wide = adapted(tmp_path / "wide", rank=513)
    assert refusal(wide) == "its rank is 513, and 512 is the highest"
    pair = adapted(tmp_path / "more", rank=4)
    config = pair.student.peft_config["default"]
    for field, value, reason in [
        ("use_dora", True, "it has use_dora"),
        ("modules_to_save", ["lm_head"], "it has modules_to_save"),
        ("bias", "all", "it trains biases (all)"),
    ]:
        before = getattr(config, field)
        setattr(config, field, value)
        assert refusal(pair) == reason
        setattr(config, field, before)
    head = adapted(tmp_path / "untied", "llama", rank=4, targets=["q_proj", "lm_head"])
    assert refusal(head) == "it adapts lm_head"


def test_the_least_rank_that_a_server_is_started_with(tmp_path):
    config = adapted(tmp_path / "student", rank=4).student.peft_config["default"]
    assert highest(config) == 4
    config.rank_pattern = {"q_proj": 40}
    assert highest(config) == 40
    assert [served_rank(r) for r in (1, 2, 8, 9, 257, 512)] == [1, 8, 8, 16, 320, 512]
