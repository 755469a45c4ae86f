"""Parameters of mixtures, as peft counts them, and as the doctor says them before a run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench.causal_models.tiny import tiny_config
from opd.config.models import LoraConfig, StudentConfig
from opd.config.run import RunConfig, parse
from opd.doctor.examine import report, static
from opd.doctor.memory import estimate
from opd.errors import UserError
from opd.models.architecture import from_config
from opd.models.folders.adapters import load_adapter, with_adapter
from opd.models.parameters import ParameterCounts, count_parameters
from opd.training import checkpoint
from opd.training.loading import Callbacks, load
from tests.support.tiny_models import tokenizer

MIXTURES = ("qwen3_moe", "mixtral", "gpt_oss")
FUSED = ["down_proj", "gate_up_proj", "q_proj"]


def made(model_type: str, device: str = "cpu") -> Any:
    with torch.device(device):
        return AutoModelForCausalLM.from_config(tiny_config(model_type))


@pytest.fixture(scope="module", params=MIXTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("mixture") / request.param
    made(request.param).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def run(folder: Path, **student: Any) -> RunConfig:
    settings = {"model": str(folder), **student}
    return parse({"student": settings, "teacher": {"kind": "self"}, "device": "cpu"})


@pytest.mark.parametrize("targets", ["all-linear", FUSED], ids=["all-linear", "fused"])
@pytest.mark.parametrize("model_type", MIXTURES)
def test_what_is_trained_is_counted_as_peft_counts_it(model_type: str, targets: Any) -> None:
    lora = LoraConfig(rank=4, targets=targets)
    adapted = with_adapter(made(model_type), lora)
    counts = count_parameters(adapted)
    assert (counts.trainable, counts.total) == adapted.get_nb_trainable_parameters()
    assert counts == count_parameters(with_adapter(made(model_type, "meta"), lora))


def test_a_token_meets_half_of_four_experts() -> None:
    """Counted by hand: two layers, each with 4 experts of 3 · 32 · 16, 2 of them met."""
    counts = count_parameters(made("qwen3_moe"))
    assert counts.total - counts.active == 2 * 2 * 3 * 32 * 16
    assert str(counts).endswith(f"{counts.active:,} active per token")
    assert str(ParameterCounts(3, 1000, 1000)) == "3 of 1,000 parameters are trained"


def test_how_much_of_the_weights_lies_beneath_the_adapter_is_said() -> None:
    """By hand: the attention of two layers, their routers and experts (3 · 32 · 16 each of 4); of
    gpt-oss, whose experts and routers peft does not find, the attention."""
    for model_type, more in (("qwen3_moe", 2 * 4 * (32 + 3 * 32 * 16)), ("gpt_oss", 0)):
        model = made(model_type)
        attention = sum(p.numel() for n, p in model.named_parameters() if "_proj.weight" in n)
        counts = count_parameters(with_adapter(model, LoraConfig(rank=2)))
        assert counts.adapted == attention + more
        share = counts.adapted / (counts.total - counts.trainable)
        assert str(counts).endswith(f", by an adapter on {share:.0%} of the rest")
        assert count_parameters(made(model_type)).adapted == 0


@pytest.mark.parametrize("model_type", MIXTURES)
def test_experts_are_trained_in_one_order_in_every_process(model_type: str) -> None:
    settings = with_adapter(made(model_type), LoraConfig(rank=2)).peft_config["default"]
    for names in (settings.target_modules, settings.target_parameters or []):
        assert isinstance(names, list) and names == sorted(names)


def test_fused_experts_learn_and_are_found_again(folder: Path, tmp_path: Path) -> None:
    adapted = with_adapter(
        AutoModelForCausalLM.from_pretrained(folder), LoraConfig(rank=2, targets=FUSED)
    )
    ids = torch.tensor([[3, 4, 5, 6]])
    adapted(ids).logits.square().sum().backward()
    learns = {n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.any()}
    assert {n for n in learns if "experts" in n}
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted.save_pretrained(tmp_path)
    again = load_adapter(AutoModelForCausalLM.from_pretrained(folder), tmp_path)
    torch.testing.assert_close(again(ids).logits, adapted(ids).logits)
    checkpoint.check_student(
        tmp_path,
        StudentConfig(model=str(folder), lora=LoraConfig(rank=2, alpha=64, targets=FUSED)),
        folder,
    )
    with pytest.raises(UserError, match="was trained with") as caught:
        other = LoraConfig(rank=2, alpha=64, targets=["gate_up_proj", "k_proj"])
        checkpoint.check_student(tmp_path, StudentConfig(model=str(folder), lora=other), folder)
    assert caught.value.where == "student.lora.targets"


def test_a_name_that_no_module_has_is_refused_with_the_experts_names() -> None:
    with pytest.raises(UserError, match=r"gate_proj.*near: gate_up_proj"):
        with_adapter(made("qwen3_moe"), LoraConfig(targets=["gate_proj"]))


@pytest.mark.parametrize("lora", [None, {"rank": 4}], ids=["all weights", "adapter"])
def test_the_doctor_counts_what_the_run_trains(folder: Path, lora: Any) -> None:
    config = run(folder, lora=lora)
    findings = list(static(config, lambda _: None))
    (finding,) = [f for f in findings if f.code == "parameters"]
    loaded = load(config, None, Callbacks())
    counts = count_parameters(loaded.pair.student)
    loaded.close()
    assert ParameterCounts(**finding.evidence) == counts
    memory = report(config, findings)["memory"]
    parts = {p["name"]: p["bytes"] for p in memory["parts"]}
    assert parts["gradients"] == 4 * counts.trainable
    assert parts["student's weights"] == 4 * (counts.total - (counts.trainable if lora else 0))
    assert memory["unknown"] == []


def test_an_adapter_upon_a_mixture_is_unknown_before_it_is_made(folder: Path) -> None:
    config = run(folder, lora={"rank": 4})
    assert estimate(config).unknown == ["student.lora"]
    assert estimate(config, trained=1000).unknown == []


@pytest.mark.parametrize("model_type", ["qwen3_moe", "mixtral"])
def test_a_mixture_without_its_weights_has_the_same_count(model_type: str) -> None:
    model = made(model_type)
    shape = from_config(model.config.to_dict())
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in model.parameters())
