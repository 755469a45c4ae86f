"""What is saved loads in plain transformers and peft, and is what its source was."""

import json
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3_5Config
from transformers import Qwen3_5ForConditionalGeneration as Multimodal

from opd.models.folders.weights import check_stored
from opd.models.load import load_model
from opd.training.saving import Provenance, save
from tests.opd.teachers.test_local import LORA, settings, steps
from tests.opd.teachers.test_local import inputs as inputs

IDS = torch.tensor([[3, 4, 5, 9, 12]])
TEMPLATE = "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}"


@pytest.fixture(scope="module")
def source(inputs):
    """A student with a tokenizer class, generation settings and a chat template of its own."""
    folder = inputs / "chat"
    shutil.copytree(inputs / "student", folder)
    change(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    change(folder / "generation_config.json", temperature=0.6, top_k=20, do_sample=True)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def change(path, **settings):
    path.write_text(json.dumps(read(path) | settings))


def read(path):
    return json.loads(path.read_text())


def saved(inputs, source, root, lora, merge):
    config = settings(inputs, student={"model": str(source), "lora": lora})
    steps(config, root / "run")
    checkpoint = root / "run" / "step-000002"
    out = root / "saved"
    made = Provenance("run-a", config, 2, {}, (), ())
    save(checkpoint, out, made, merge_into=str(source) if merge else "")
    return checkpoint, out


@pytest.mark.parametrize(("lora", "merge"), [(None, False), (LORA, True), (LORA, False)])
def test_what_is_saved_is_what_its_source_was(inputs, source, tmp_path, lora, merge):
    for folder in saved(inputs, source, tmp_path, lora, merge):
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            assert (folder / name).read_bytes() == (source / name).read_bytes()
        assert AutoTokenizer.from_pretrained(folder).chat_template == TEMPLATE
        if (folder / "adapter_config.json").exists():
            base = AutoModelForCausalLM.from_pretrained(source)
            assert torch.isfinite(PeftModel.from_pretrained(base, folder)(IDS).logits).all()
            continue
        before, after = (read(f / "generation_config.json") for f in (source, folder))
        assert {n: after[n] for n in before if n != "transformers_version"} == {
            n: v for n, v in before.items() if n != "transformers_version"
        }
        now, then = (read(f / "config.json") for f in (folder, source))
        assert now["architectures"] == then["architectures"]
        assert check_stored(folder, where="m") == ""
        ours, plain = load_model(folder, where="m"), AutoModelForCausalLM.from_pretrained(folder)
        torch.testing.assert_close(ours(IDS).logits, plain.eval()(IDS).logits)


def test_the_language_model_of_a_multimodal_one_is_saved_so_that_it_loads(tmp_path):
    text = {
        "vocab_size": 310,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": ["full_attention", "full_attention"],
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
    }
    both = Multimodal(Qwen3_5Config(text_config=text, vision_config=vision))
    both.save_pretrained(tmp_path / "both")
    model = load_model(tmp_path / "both", where="m")
    model.save_pretrained(tmp_path / "text")
    assert read(tmp_path / "text" / "config.json")["architectures"] == ["Qwen3_5ForCausalLM"]
    assert check_stored(tmp_path / "text", where="m") == ""
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "text").eval()
    torch.testing.assert_close(again(IDS).logits, model(IDS).logits)
