"""Folders with quantized weights, and students that are quantized when they are loaded."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from opd.config.folders import local_folder
from opd.config.models import LoraConfig
from opd.config.run import check_inputs
from opd.doctor.memory import estimate
from opd.errors import ConfigError, UserError
from opd.models.architecture import architecture_of
from opd.models.cost import model_cost
from opd.models.folders.adapters import with_adapter
from opd.models.load import load_model, load_pair, load_student
from opd.training.trainer import Training
from opd.types import StepEvent
from tests.opd.teachers.test_local import LORA, all_of, settings, steps
from tests.opd.teachers.test_local import inputs as inputs
from tests.support import tiny_models

CPU = torch.device("cpu")
IDS = torch.tensor([[3, 4, 5, 9, 12]])
KINDS = ("int4", "int8", "compressed")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, and the same one as bitsandbytes (4 and 8 bits) and compressed-tensors store it."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("compressed_tensors")
    root = tmp_path_factory.mktemp("quantized")
    save_wide(root / "whole")
    bits = {
        "int4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32),
        "int8": BitsAndBytesConfig(load_in_8bit=True),
    }
    for name, how in bits.items():
        model = AutoModelForCausalLM.from_pretrained(
            root / "whole", quantization_config=how, device_map={"": "cpu"}
        )
        model.save_pretrained(root / name)
    compress(root / "whole", root / "compressed")
    for name in KINDS:
        shutil.copy(root / "whole" / "tokenizer.json", root / name)
        shutil.copy(root / "whole" / "tokenizer_config.json", root / name)
    return root


def save_wide(folder):
    """4-bit weights come in blocks of 64."""
    torch.manual_seed(0)
    wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
    model = LlamaForCausalLM(LlamaConfig(**tiny_models.config("llama", 310).to_dict() | wide))
    for name, parameter in model.named_parameters():
        if "proj" in name:
            parameter.data.mul_(3.0)
    model.save_pretrained(folder)
    tiny_models.tokenizer().save_pretrained(folder)


def compress(whole, folder):
    """Stores a model as llm-compressor does: 4-bit groups of 16, packed."""
    from compressed_tensors.compressors import ModelCompressor  # noqa: PLC0415
    from compressed_tensors.quantization import (  # noqa: PLC0415
        QuantizationArgs,
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )

    args = QuantizationArgs(num_bits=4, type="int", strategy="group", group_size=16)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    how = QuantizationConfig(
        config_groups={"group_0": scheme}, ignore=["lm_head"], format="pack-quantized"
    )
    model = AutoModelForCausalLM.from_pretrained(whole)
    apply_quantization_config(model, how)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            groups = module.weight.data.unflatten(1, (-1, 16))
            module.weight_scale.data = groups.abs().amax(-1) / 7
    ModelCompressor(quantization_config=how).compress_model(model)
    shutil.copytree(whole, folder)
    save_file(dict(model.state_dict()), folder / "model.safetensors", {"format": "pt"})
    stored = {
        **json.loads(how.model_dump_json()),
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    }
    configure(folder, quantization_config=stored)


def configure(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_folder_is_the_model_that_transformers_makes_of_it(folders, kind, capfd):
    capfd.readouterr()
    ours = load_model(folders / kind, where="m", device=CPU)
    assert capfd.readouterr() == ("", "")
    plain = AutoModelForCausalLM.from_pretrained(folders / kind, dtype=torch.float32)
    whole = AutoModelForCausalLM.from_pretrained(folders / "whole")
    with torch.no_grad():
        logits, same, other = (m.eval()(IDS).logits for m in (ours, plain, whole))
    torch.testing.assert_close(logits, same, atol=0.02, rtol=0.02)
    assert 1e-3 < (logits - other).abs().max() < 0.6 * other.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_its_neighbours(folders, kind):
    model = load_model(folders / kind, where="m", device=CPU)
    loud = torch.tensor([[301, 302, 303, 304, 305]])
    with torch.no_grad():
        model.get_input_embeddings().weight[301:306] *= 100.0  # outliers, in one row only
        alone, beside, begun = (
            model(ids).logits[0] for ids in (IDS, torch.cat([IDS, loud]), IDS[:, :3])
        )
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone[:3], begun, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_trains_upon_a_quantized_folder(folders, kind):
    pair = load_pair(str(folders / kind), str(folders / kind), device=CPU)
    whole = load_student(str(folders / "whole"), device=CPU).student
    assert model_cost(pair.student) == model_cost(whole)
    gradients = adapter_gradients(pair.student)
    assert len(gradients) == 14
    expected = adapter_gradients(as_whole(pair.teacher, whole))
    for name, gradient in gradients.items():
        # 8-bit products round what goes in, so that theirs are near
        size = float(expected[name].abs().max())
        near = (0.2 if kind == "int8" else 1e-4) * size
        torch.testing.assert_close(gradient, expected[name], atol=near, rtol=0.0)


def as_whole(quantized, whole):
    """The whole model with the quantized one's weights: what its layers make of unit vectors."""
    layers = dict(quantized.named_modules())
    with torch.no_grad():
        for name, layer in whole.named_modules():
            if name.endswith("_proj"):
                layer.weight.copy_(layers[name](torch.eye(layer.in_features)).T)
    return whole


def adapter_gradients(model):
    student = with_adapter(model, LoraConfig(rank=2))
    student(IDS).logits.log_softmax(-1)[..., 7].sum().backward()
    return {n: p.grad for n, p in student.named_parameters() if "lora_B" in n}


@pytest.mark.parametrize("kind", KINDS)
def test_all_weights_of_a_quantized_student_are_not_trained(folders, inputs, tmp_path, kind):
    config = settings(inputs, student={"model": str(folders / kind)})
    for refuse in (check_inputs, lambda c: steps(c, tmp_path)):
        with pytest.raises(UserError, match="only an adapter can be trained") as caught:
            refuse(config)
        assert "student.lora" in str(caught.value)


def test_a_missing_weight_of_a_quantized_folder_is_refused(folders, tmp_path):
    folder = Path(shutil.copytree(folders / "int4", tmp_path / "m"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"missing from its files, first model\.norm\.weight"):
        load_model(folder, where="student.model")


@pytest.mark.parametrize(
    ("method", "package"),
    [
        ("bitsandbytes", "bitsandbytes: pip install 'opd-studio[quantized]'"),
        ("compressed-tensors", "compressed_tensors: pip install 'opd-studio[quantized]'"),
        ("awq", "gptqmodel: pip install gptqmodel"),
        ("gptq", "gptqmodel and optimum: pip install gptqmodel optimum"),
        ("hqq", "hqq: pip install hqq"),
    ],
)
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, method, package):
    tiny_models.save_model(tmp_path / "m", "llama")
    configure(tmp_path / "m", quantization_config={"quant_method": method})
    monkeypatch.setattr("opd.config.model_files.quantized.find_spec", lambda _: None)
    with pytest.raises(UserError) as caught:
        local_folder(str(tmp_path / "m"), where="teacher.model")
    assert str(caught.value) == (
        f"teacher.model: {tmp_path / 'm'} is quantized with {method}, which needs {package}"
    )
    assert caught.value.kind == "missing extra"


def test_what_is_quantized_is_not_quantized_again(folders):
    with pytest.raises(UserError, match="quantized already") as caught:
        load_model(folders / "int8", where="teacher.model", quantize="int4")
    assert caught.value.where == "teacher.quantize"


def test_an_adapter_is_not_merged_into_quantized_weights(folders, tmp_path):
    student = with_adapter(load_student(str(folders / "int4"), device=CPU).student, LoraConfig())
    student.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(UserError, match="cannot be merged exactly") as caught:
        load_model(tmp_path / "adapter", where="teacher.model")
    assert "set base_model_name_or_path to the unquantized model" in str(caught.value)


def test_a_plan_counts_parameters_not_what_they_are_packed_in(folders, inputs):
    whole = architecture_of(str(folders / "whole"), where="m")
    for kind in KINDS:
        packed = architecture_of(str(folders / kind), where="m")
        assert packed.parameters == whole.parameters
    assert architecture_of(str(folders / "int4"), where="m").packed == "int4"

    def weights(quantize, model="whole"):
        student = {"model": str(folders / model), "lora": LORA, "quantize": quantize}
        parts = estimate(settings(inputs, student=student)).parts
        return next(p.bytes for p in parts if p.name == "student's weights")

    others = (whole.parameters - whole.in_linears) * 4
    assert weights("none") == whole.parameters * 4
    assert weights("int8") == whole.in_linears + others
    assert weights("int4") == whole.in_linears * (0.5 + 4 / 64) + others
    assert weights("none", "int4") == weights("int4")


def test_quantize_needs_an_adapter(inputs):
    with pytest.raises(ConfigError) as caught:
        settings(inputs, student={"quantize": "int4"})
    assert [p["field"] for p in caught.value.problems] == ["student.quantize"]


@pytest.mark.parametrize("bits", ["int4", "int8"])
def test_an_adapter_is_trained_on_a_base_that_is_quantized_when_it_is_loaded(
    folders, inputs, tmp_path, bits
):
    config = settings(
        inputs,
        student={"model": str(folders / "whole"), "lora": LORA, "quantize": bits},
        steps=3,
        checkpoints={"every": 2},
        evaluation={"prompts": 2, "keep": 2},
    )
    events = steps(config, tmp_path / "run")
    sampled, scored = (all_of(events, f"{who}_logprobs") for who in ("sampler", "student"))
    # In 8 bits, what goes into a product is rounded, too, and a last digit may round otherwise
    np.testing.assert_allclose(sampled, scored, atol=1e-4 if bits == "int4" else 5e-3)
    assert all(e.metrics["grad_norm"] > 0 for e in events)
    cut = tmp_path / "run" / "step-000002"
    resumed = Training(config, tmp_path / "again", resume_from=cut)
    (last,) = [e for e in resumed.events() if isinstance(e, StepEvent)]
    assert dict(last.metrics) == dict(events[-1].metrics)
    base = AutoModelForCausalLM.from_pretrained(folders / "whole")
    adapted = PeftModel.from_pretrained(base, cut)  # on the unquantized base
    with torch.no_grad():
        with adapted.disable_adapter():
            before = adapted(IDS).logits
        assert (adapted(IDS).logits - before).abs().max() > 1e-4
