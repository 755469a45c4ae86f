"""Folders whose weights are not those of their model are refused before anything is loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from opd.config.folders import local_folder
from opd.config.model_files.weights import stored_numbers
from opd.config.run import parse
from opd.doctor.models import look_up
from opd.errors import UserError
from opd.models.folders.weights import WRAPPERS, check_stored
from opd.models.load import load_model
from tests.support import tiny_models
from tests.support.tiny_models import config, tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A llama, a qwen3 with its embedding as its head, and a gpt2."""
    root = tmp_path_factory.mktemp("whole")
    for kind in ("llama", "qwen3", "gpt2"):
        tiny_models.save_model(root / kind, kind)
    return root


@pytest.fixture
def changed(folders, tmp_path):
    """Copies a folder with other weights or settings; returns it."""

    def change(kind="llama", weights=lambda w: w, **settings):
        folder = Path(shutil.copytree(folders / kind, tmp_path / "changed"))
        save_file(weights(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})
        data = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(data | settings))
        return folder

    return change


def refused(folder):
    """The message, which the headers and a static examination give alike."""
    with pytest.raises(UserError) as caught:
        load_model(folder, where="student.model")
    assert caught.value.where == "student.model"
    assert caught.value.kind == "refused model"
    assert caught.value.kind.exit_code == 2
    with pytest.raises(UserError) as headers:
        check_stored(folder, where="student.model")
    assert str(headers.value) == str(caught.value)
    return str(caught.value)


def without(part):
    return lambda weights: {n: t for n, t in weights.items() if part not in n}


def added(**tensors):
    return lambda weights: weights | {n.replace("__", "."): t for n, t in tensors.items()}


def test_missing_weights_are_counted_and_named(changed):
    text = refused(changed(weights=without("layers.1.mlp")))
    assert "3 of 21 weights are missing" in text
    assert "model.layers.1.mlp.down_proj.weight" in text
    assert "random" in text


def test_a_missing_head_is_named_unless_the_embedding_is_the_head(changed, folders):
    assert "1 of 21 weights are missing from its files, first lm_head.weight" in refused(
        changed(weights=without("lm_head"))
    )
    tied = load_file(folders / "qwen3" / WEIGHTS)
    assert "lm_head.weight" not in tied
    assert check_stored(folders / "qwen3", where="m") == ""


def test_a_stored_head_counts_where_it_differs_from_the_embedding(changed, tmp_path):
    """As in transformers; what is saved says so, for programs that would tie them."""
    head = torch.randn(310, 32)
    said = []
    model = load_model(changed("qwen3", added(lm_head__weight=head)), where="m", say=said.append)
    assert torch.equal(model.get_output_embeddings().weight, head)
    assert "differs from its embedding" in said[0]
    model.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["tie_word_embeddings"] is False


def test_a_stored_copy_of_the_embedding_is_the_head(changed):
    def copied(weights):
        return weights | {"lm_head.weight": weights["model.embed_tokens.weight"].clone()}

    said = []
    model = load_model(changed("qwen3", copied), where="m", say=said.append)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert said == []


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model.", "policy.net."])
def test_a_wrapper_s_prefix_is_explained(changed, prefix):
    text = refused(changed(weights=lambda w: {prefix + n: t for n, t in w.items()}))
    assert f"21 weights are named with {prefix!r}" in text
    wrapper, remedy = WRAPPERS.get(prefix, ("something around the model", "the model inside"))
    assert wrapper in text
    assert remedy in text


@pytest.mark.parametrize("part", ["base_layer.", "_fsdp_wrapped_module.", "_orig_mod."])
def test_a_wrapper_within_the_model_is_explained(changed, part):
    def wrapped(weights):
        return {n.replace("mlp.up_proj.", f"mlp.up_proj.{part}"): t for n, t in weights.items()}

    text = refused(changed(weights=wrapped))
    assert f"2 weights are named with {part!r}, which {WRAPPERS[part][0]} adds" in text


def test_a_prefix_that_transformers_takes_off_itself_is_no_fault(changed, folders):
    folder = changed(weights=lambda w: {f"model.{n}": t for n, t in w.items()})
    model, whole = (load_model(f, where="m") for f in (folder, folders / "llama"))
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(model(ids).logits, whole(ids).logits)


def test_another_shape_is_named_with_both(changed):
    text = refused(changed(weights=added(model__norm__weight=torch.ones(16))))
    assert "1 weight of another shape" in text
    assert "model.norm.weight: [16] stored, [32] needed" in text


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.2.mlp.up_proj.weight",  # a layer more than config.json says
        "model.layers.0.self_attn.q_norm.weight",  # of another architecture
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_proj.weight_scale",  # quantized, and config.json does not say
        "score.weight",
    ],
)
def test_weights_that_show_another_model(changed, name):
    text = refused(changed(weights=lambda w: w | {name: torch.ones(8)}))
    assert f"no place for 1 weight of its files, first {name}" in text


def test_an_adapter_that_is_not_merged(changed):
    name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    assert "adapter that is not merged" in refused(
        changed(weights=lambda w: w | {name: torch.ones(4, 32)})
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mtp.layers.0.input_layernorm.weight", {}),
        ("model.layers.2.self_attn.q_proj.weight", {"num_nextn_predict_layers": 1}),
        ("model.layers.2.eh_proj.weight", {}),
        ("model.vision_tower.patch_embed.weight", {}),
        ("visual.blocks.0.attn.qkv.weight", {}),
        ("multi_modal_projector.linear_1.weight", {}),
        ("v_head.summary.weight", {}),
    ],
)
def test_what_stands_beside_the_language_model_is_told_and_left_out(changed, name, settings):
    folder = changed(weights=lambda w: w | {name: torch.ones(8)}, **settings)
    said = []
    load_model(folder, where="student.model", say=said.append)
    assert said == [f"{folder}: 1 weight not used, first {name}"]
    assert check_stored(folder, where="m") == f"1 weight not used, first {name}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("gpt2", "transformer.h.0.attn.bias"),
        ("gpt2", "transformer.h.0.attn.masked_bias"),
    ],
)
def test_buffers_that_older_versions_stored_are_no_matter(changed, kind, name):
    said = []
    folder = changed(kind, lambda w: w | {name: torch.ones(4)})
    load_model(folder, where="m", say=said.append)
    assert said == []


def test_a_multimodal_model_is_whole_with_its_towers(tmp_path):
    text = config("llama", 310).to_dict() | {"model_type": "gemma3_text", "layer_types": None}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    both = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(both).save_pretrained(tmp_path / "m")
    assert check_stored(tmp_path / "m", where="m") == ""
    weights = load_file(tmp_path / "m" / WEIGHTS)
    part = next(n for n in weights if "layers.1.mlp" in n)
    save_file(without(part)(weights), tmp_path / "m" / WEIGHTS, {"format": "pt"})
    assert "1 of" in refused(tmp_path / "m")


def saved(folder, model):
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
OTHERS = {
    "an encoder–decoder model (T5ForConditionalGeneration)": lambda: T5ForConditionalGeneration(
        T5Config(vocab_size=310, d_model=32, d_ff=48, num_layers=1, num_heads=2, d_kv=8)
    ),
    "an encoder (masked language model) (BertForMaskedLM)": lambda: BertForMaskedLM(
        BertConfig(vocab_size=310, intermediate_size=48, **SMALL)
    ),
    "a classifier or reward model (LlamaForSequenceClassification)": (
        lambda: LlamaForSequenceClassification(config("llama", 310))
    ),
    "not a text model (ViTForImageClassification)": lambda: ViTForImageClassification(
        ViTConfig(intermediate_size=16, image_size=28, patch_size=14, **SMALL)
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_kinds_of_models_are_refused_by_what_they_are(tmp_path, what):
    folder = saved(tmp_path / "m", OTHERS[what]())
    with pytest.raises(UserError) as caught:
        local_folder(str(folder), where="teacher.model")
    assert str(caught.value) == (
        f"teacher.model: {folder} is {what}; give a causal language model (…ForCausalLM)"
    )


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"architectures": ["Qwen2ForRewardModel"]}, "a reward model"),
        ({"architectures": ["LlamaForTokenClassification"]}, "a token classifier"),
        ({"architectures": ["Qwen2ForQuestionAnswering"]}, "question-answering"),
        ({"architectures": None, "model_type": "roberta"}, "an encoder (model_type roberta)"),
        ({"architectures": None, "is_encoder_decoder": True}, "an encoder–decoder model"),
        ({"architectures": None, "_diffusers_version": "0.3"}, "a diffusion pipeline"),
    ],
)
def test_other_kinds_are_known_by_their_configuration(changed, settings, what):
    with pytest.raises(UserError) as caught:
        local_folder(str(changed(**settings)), where="student.model")
    assert what in str(caught.value)
    assert caught.value.kind == "refused model"


def test_a_type_without_a_causal_model_is_refused_in_one_sentence(changed):
    folder = changed(model_type="vit", architectures=["ViTModel"])
    with pytest.raises(UserError) as caught:
        load_model(folder, where="student.model")
    assert str(caught.value) == (
        f"student.model: {folder} is not a causal language model of transformers (ViTModel); give "
        "a causal language model (…ForCausalLM)"
    )


def test_a_pipeline_s_folder_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="is a diffusion pipeline"):
        local_folder(str(tmp_path), where="student.model")


def sharded(folders, tmp_path):
    folder = tmp_path / "sharded"
    shutil.copytree(folders / "llama", folder)
    model = load_model(folder, where="m")
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return folder, sorted(folder.glob("model-*.safetensors"))


def file_fault(folder):
    with pytest.raises(UserError) as caught:
        local_folder(str(folder), where="student.model")
    assert caught.value.kind == "missing model"
    return str(caught.value)


def test_a_missing_shard_is_named_before_anything_is_loaded(folders, tmp_path):
    folder, shards = sharded(folders, tmp_path)
    local_folder(str(folder), where="student.model")
    shards[1].unlink()
    text = file_fault(folder)
    assert f"1 of {len(shards)} weight files" in text
    assert shards[1].name in text


def test_a_shard_that_is_cut_off(folders, tmp_path):
    folder, shards = sharded(folders, tmp_path)
    data = shards[-1].read_bytes()
    shards[-1].write_bytes(data[:-10])
    text = file_fault(folder)
    assert f"{shards[-1]} is cut off: {len(data) - 10:,} of {len(data):,} bytes" in text


def test_shards_without_their_index(folders, tmp_path):
    folder, shards = sharded(folders, tmp_path)
    (folder / "model.safetensors.index.json").unlink()
    assert f"neither {WEIGHTS} nor model.safetensors.index.json (it has {shards[0].name}" in (
        file_fault(folder)
    )


@pytest.mark.parametrize("name", [WEIGHTS, "config.json", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(changed, name):
    folder = changed()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n")
    text = file_fault(folder)
    assert f"{folder / name} is a Git LFS pointer" in text
    assert "git lfs pull" in text


@pytest.mark.parametrize(
    "other",
    ["consolidated.safetensors", "original/model.safetensors", "onnx/model.safetensors", "m.gguf"],
)
def test_the_same_weights_in_another_form_do_not_count_again(changed, other):
    folder = changed()
    before = stored_numbers(folder)
    assert before == sum(t.numel() for t in load_file(folder / WEIGHTS).values())
    (folder / other).parent.mkdir(exist_ok=True)
    shutil.copy(folder / WEIGHTS, folder / other)
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert stored_numbers(folder) == before


def test_a_folder_with_only_consolidated_weights(changed):
    folder = changed()
    (folder / WEIGHTS).rename(folder / "consolidated.safetensors")
    assert "it has consolidated.safetensors" in file_fault(folder)


def test_the_doctor_names_faulty_weights_without_loading(changed, folders):
    folder = changed(weights=without("layers.1.mlp"))
    models = look_up(parse({"student": str(folder), "teacher": str(folders / "llama")}))
    (finding,) = models.findings
    assert (finding.code, finding.severity) == ("model-refused", "error")
    assert "student.model" in finding.text
    assert "3 of 21 weights are missing" in finding.text
