"""Adapter folders as people have them: without a tokenizer, of another base, of another task."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from opd.config.folders import local_folder
from opd.config.model_files.adapters import base_reference
from opd.config.models import LoraConfig
from opd.config.run import parse
from opd.doctor.models import look_up
from opd.errors import UserError
from opd.models.folders.adapters import keep_inputs, with_adapter
from opd.models.folders.resolve import base_folder, resolve
from opd.models.load import load_model, load_pair, load_student
from tests.support import tiny_models
from tests.support.devices.operator_counts import OperatorCounts

CPU = torch.device("cpu")
FILE = "adapter_model.safetensors"
SNAPSHOT = "models--Qwen--Qwen3-0.6B/snapshots/c1899de289a04d12100db370d81485cdf75e47ca"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Base models `llama` and `qwen3` (its head tied), and `adapter` of llama, as peft saves it."""
    root = tmp_path_factory.mktemp("adapters")
    for kind in ("llama", "qwen3"):
        tiny_models.save_model(root / kind, kind)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(root / "llama")
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    peft.get_peft_model(base, config).save_pretrained(root / "adapter")
    return root


@pytest.fixture
def changed(root, tmp_path):
    """A copy of the adapter with other settings or weights."""

    def change(weights=lambda w: w, **settings):
        folder = Path(shutil.copytree(root / "adapter", tmp_path / "adapter"))
        save_file(weights(load_file(folder / FILE)), folder / FILE, {"format": "pt"})
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))
        return folder

    return change


def refused(folder):
    """The message of loading, which a static examination gives, too."""
    with pytest.raises(UserError) as caught:
        load_model(resolve(str(folder), where="teacher.model"), where="teacher.model")
    assert caught.value.where == "teacher.model"
    config = parse({"teacher": str(folder)})
    texts = [f.text for f in look_up(config).findings if f.severity == "error"]
    assert texts == [str(caught.value)]
    return str(caught.value)


def test_an_adapter_without_a_tokenizer_takes_its_base_s(root):
    adapter, base = root / "adapter", root / "llama"
    assert not (adapter / "tokenizer.json").exists()
    pair = load_pair(str(adapter), str(adapter), device=CPU)
    assert pair.tokenizer.get_vocab() == load_student(str(base), device=CPU).tokenizer.get_vocab()
    models = look_up(parse({"student": str(adapter), "teacher": str(adapter)}))
    assert models.findings == []
    assert models.student is not None
    assert models.student.stops == pair.eos_ids


def test_an_adapter_is_its_base_with_what_it_adds(root):
    ids = torch.tensor([[3, 4, 5]])
    by_peft = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(root / "llama"), root / "adapter"
    )
    torch.testing.assert_close(
        load_model(root / "adapter", where="m")(ids).logits,
        by_peft(ids).logits,
        atol=1e-4,
        rtol=1e-4,
    )


@pytest.mark.parametrize(
    ("base", "instead"),
    [
        (f"/home/someone/.cache/huggingface/hub/{SNAPSHOT}", "Qwen/Qwen3-0.6B"),
        ("D:\\hub\\" + SNAPSHOT.replace("/", "\\"), "Qwen/Qwen3-0.6B"),
        ("/scratch/llama", "that model's folder or hub id"),
        ("../llama-of-mine", "that model's folder or hub id"),
        ("~nobody/llama", "that model's folder or hub id"),
        ("C:\\models\\llama", "that model's folder or hub id"),
    ],
)
def test_a_base_of_another_machine_is_answered_with_what_to_write(changed, base, instead):
    text = refused(changed(base_model_name_or_path=base))
    assert "adapter_config.json names a base model that is not on this machine" in text
    assert base in text
    assert text.endswith(f"set base_model_name_or_path in it to {instead}")


@pytest.mark.parametrize("base", ["../base", "base", "./models/base", "models/base"])
def test_a_relative_base_is_taken_from_the_adapter_s_folder(
    root, changed, tmp_path, monkeypatch, base
):
    folder = changed(base_model_name_or_path=base)
    there = shutil.copytree(root / "llama", folder / base)
    (tmp_path / "elsewhere" / "models" / "base").mkdir(parents=True)  # of other things
    monkeypatch.chdir(tmp_path / "elsewhere")
    reference = f"../{folder.name}"
    assert resolve(base_reference(Path(reference), where="m"), where="m") == there.resolve()
    pair = load_student(reference, device=CPU)
    assert pair.tokenizer.get_vocab() == tiny_models.tokenizer().get_vocab()
    assert look_up(parse({"student": reference})).findings == []


def test_a_relative_base_is_taken_from_the_working_directory_else(
    root, changed, tmp_path, monkeypatch
):
    folder = changed(base_model_name_or_path="models/base")
    there = shutil.copytree(root / "llama", tmp_path / "work" / "models" / "base")
    monkeypatch.chdir(tmp_path / "work")
    assert base_folder(folder, where="m") == there


def test_a_base_in_the_home_directory(root, changed, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    there = shutil.copytree(root / "llama", tmp_path / "home" / "base")
    folder = changed(base_model_name_or_path="~/base")
    assert base_folder(folder, where="m") == there


def test_a_base_that_is_a_hub_id_is_fetched_and_its_absence_told(changed, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = changed(base_model_name_or_path="nobody/nothing")
    local_folder(str(folder), where="m")  # nothing of it is refused
    (finding,) = look_up(parse({"teacher": str(folder)})).findings
    assert (finding.code, "nobody/nothing" in finding.title) == ("not-downloaded", True)
    with pytest.raises(UserError, match="nobody/nothing"):
        load_model(folder, where="m")


def test_adapters_that_name_each_other_end(changed):
    folder = changed()
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(folder)})
    )
    assert "names itself as its base model" in refused(folder)


def test_a_base_that_is_faulty_is_named(root, changed, tmp_path):
    base = Path(shutil.copytree(root / "llama", tmp_path / "base"))
    weights = load_file(base / "model.safetensors")
    del weights["model.norm.weight"]
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    text = refused(changed(base_model_name_or_path=str(base)))
    assert f"{base}: 1 of 21 weights are missing" in text


def test_weights_that_the_adapter_lacks(changed):
    text = refused(changed(lambda w: {n: t for n, t in w.items() if "layers.1" not in n}))
    assert "4 weights of the adapter missing from its file" in text
    assert "layers.1.mlp.up_proj.lora_A" in text


def test_weights_that_the_base_has_no_place_for(changed):
    name = "base_model.model.model.layers.5.self_attn.q_proj.lora_A.weight"
    text = refused(changed(lambda w: w | {name: torch.ones(2, 32)}))
    assert "no place for 1 weight of the adapter" in text
    assert "layers.5.self_attn.q_proj.lora_A" in text


def test_an_adapter_of_another_size_or_rank(changed):
    assert "another size" in refused(changed(r=3))


def test_an_adapter_of_another_architecture(root, changed, tmp_path):
    tiny_models.save_model(tmp_path / "gpt2", "gpt2")
    text = refused(changed(base_model_name_or_path=str(tmp_path / "gpt2")))
    assert "cannot be put upon its base model" in text


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"task_type": "SEQ_CLS"}, "an adapter of a classifier or reward model"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "an adapter of an encoder–decoder model"),
        ({"peft_type": "PREFIX_TUNING"}, "which cannot be merged"),
    ],
)
def test_adapters_that_are_not_of_a_causal_model(changed, settings, what):
    assert what in refused(changed(**settings))


def test_a_setting_of_a_newer_peft_that_is_off_is_no_matter(changed):
    assert load_model(changed(off_here=False), where="m") is not None


def test_a_setting_of_a_newer_peft_that_counts_is_refused(changed):
    text = refused(changed(scales_by_depth=True))
    assert "scales_by_depth" in text
    assert "pip install -U peft" in text


def test_an_adapter_file_that_is_cut_off(changed):
    folder = changed()
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-8])
    assert "is cut off" in refused(folder)


def test_a_saved_adapter_names_the_hub_id_of_its_base(root, tmp_path, monkeypatch):
    """And not the snapshot in this machine's cache."""
    cache = tmp_path / "hub" / "models--tiny--base"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("a" * 40)
    shutil.copytree(root / "llama", cache / "snapshots" / ("a" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        "opd.models.folders.resolve.snapshot_download",
        lambda *_, **__: str(cache / "snapshots" / ("a" * 40)),
    )
    assert base_named("tiny/base", tmp_path / "saved") == "tiny/base"


def test_a_saved_adapter_names_a_local_base_as_it_was_written(root, tmp_path):
    (tmp_path / "current").symlink_to(root / "llama")
    named = base_named(str(tmp_path / "current"), tmp_path / "saved")
    assert named == str(tmp_path / "current")


def test_a_saved_adapter_of_a_bundled_model_names_its_folder(tmp_path):
    folder = resolve("bundled/student", where="m")
    assert base_named("bundled/student", tmp_path / "saved") == str(folder)


def base_named(reference, out):
    pair = load_student(reference, device=CPU)
    student = with_adapter(pair.student, LoraConfig(rank=2))
    student.save_pretrained(out, save_embedding_layers=False)
    return json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (["q_proj", "nothere"], "no module of the model is named 'nothere'; it has down_proj"),
        (["q_porj"], "named 'q_porj'; near: q_proj"),
        (["q_proj", "self_attn"], "'self_attn' is a LlamaAttention, which takes no adapter"),
    ],
)
def test_each_target_must_name_modules_that_take_an_adapter(root, targets, text):
    with pytest.raises(UserError) as caught:
        with_adapter(load_model(root / "llama", where="m"), LoraConfig(targets=targets))
    assert caught.value.where == "student.lora.targets"
    assert text in str(caught.value)
    config = parse({"student": {"model": str(root / "llama"), "lora": {"targets": targets}}})
    assert str(caught.value) in [f.text for f in look_up(config).findings]


def test_targets_by_a_longer_name_and_of_a_head_of_its_own(root):
    model = load_model(root / "llama", where="m")
    student = with_adapter(model, LoraConfig(rank=2, targets=["layers.1.mlp.up_proj", "lm_head"]))
    trained = {n for n, p in student.named_parameters() if p.requires_grad}
    assert len(trained) == 4


def test_a_head_that_is_tied_takes_no_adapter(root):
    with pytest.raises(UserError, match="'lm_head' is tied"):
        with_adapter(load_model(root / "qwen3", where="m"), LoraConfig(targets=["lm_head"]))


@torch.no_grad()
def test_an_adapter_that_takes_inputs_as_they_come_computes_the_same_with_fewer_casts(root):
    model = with_adapter(
        AutoModelForCausalLM.from_pretrained(root / "llama", dtype=torch.bfloat16), LoraConfig()
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.fill_(0.01)
    ids = torch.tensor([[3, 4, 5]])

    def logits():
        with OperatorCounts() as counts, torch.autocast("cpu", torch.bfloat16):
            return model(input_ids=ids).logits, counts.operators["_to_copy"]

    before, casts = logits()
    keep_inputs(model)
    after, fewer = logits()
    assert torch.equal(before, after)
    assert fewer <= casts - 2 * 7 * 2  # there and back, at 7 matrices of 2 layers
