"""GGUF files: what is loaded is what was written; all else is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.config.models import LoraConfig
from opd.config.run import check_inputs, parse
from opd.doctor.examine import static
from opd.errors import ConfigError, ErrorKind, UserError
from opd.models.architecture import architecture_of
from opd.models.folders.adapters import with_adapter
from opd.models.folders.gguf import convert_gguf
from opd.models.load import load_model, load_pair
from opd.models.tokenizers import load_tokenizer
from tests.support.tiny_models import EOS, config, tokenizer

pytest.importorskip("gguf")
from tests.support.gguf_files import write_llama

TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}<assistant>"
IDS = torch.tensor([[5, 71, 200, 3, 41, 41, 9, 130]])


@pytest.fixture(scope="module")
def llama() -> Any:
    torch.manual_seed(0)
    vocab = len(tokenizer())
    return AutoModelForCausalLM.from_config(config("llama", vocab)).eval()


@pytest.fixture(scope="module")
def tiny(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama as GGUF, beside a folder's own files, which are not its."""
    folder = tmp_path_factory.mktemp("gguf")
    other = tokenizer()
    other.chat_template = "of another model"
    other.save_pretrained(folder)
    made = tokenizer()
    made.chat_template = TEMPLATE
    return write_llama(folder / "tiny.gguf", llama, made)


def test_the_loaded_model_computes_what_the_written_one_did(tiny: Path, llama: Any) -> None:
    loaded = load_model(tiny, where="student.model")
    with torch.no_grad():
        difference = (loaded(IDS).logits - llama(IDS).logits).abs().max()
    assert difference < 1e-5
    assert loaded.generation_config.eos_token_id == EOS


def test_it_is_trained_and_saved_like_any_other(tiny: Path, tmp_path: Path) -> None:
    loaded = load_model(tiny, where="student.model")
    loaded(IDS, labels=IDS).loss.backward()
    assert loaded.get_input_embeddings().weight.grad.abs().max() > 0
    loaded.save_pretrained(tmp_path)
    again = load_model(tmp_path, where="student.model")
    torch.testing.assert_close(again(IDS).logits, loaded(IDS).logits)


def test_an_adapter_finds_its_gguf_file_again(tiny: Path, tmp_path: Path) -> None:
    adapted = with_adapter(load_model(tiny, where="student.model"), LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    assert json.loads((tmp_path / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ] == str(tiny)
    merged = load_model(tmp_path, where="student.model")
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, adapted(IDS).logits, atol=1e-4, rtol=1e-4)


def test_a_pair_of_gguf_and_folder_shares_its_ids(tiny: Path, tmp_path: Path) -> None:
    convert_gguf(tiny, tmp_path, where="teacher.model")
    pair = load_pair(str(tiny), str(tmp_path), device=torch.device("cpu"))
    assert pair.eos_ids == (EOS,)
    assert pair.vocab == len(tokenizer())
    with torch.no_grad():
        apart = (pair.student(IDS).logits - pair.teacher(IDS).logits).abs().max()
    assert apart < 0.05  # the folder's weights are in bfloat16


def test_the_tokenizer_is_the_files_own_and_splits_digits(tiny: Path) -> None:
    made = load_tokenizer(tiny, where="student.model")
    assert made.chat_template == TEMPLATE
    assert made.eos_token_id == EOS
    text = "the\n\n2024  5 tokens"
    pieces = made.tokenize(text)
    assert [p for p in pieces if p[-1].isdecimal()] == ["2", "0", "2", "4", "5"]
    assert made.decode(made(text).input_ids) == text
    split = [p for p, _ in made.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a\n\n2 ")]
    assert split == ["a", "ĊĊ", "2", "Ġ"]  # the blank lines before a digit stay together


def test_its_size_is_known_from_the_header(tiny: Path, llama: Any) -> None:
    described = architecture_of(str(tiny), where="student.model")
    assert described is not None
    assert described.parameters == sum(p.numel() for p in llama.parameters())
    assert (described.hidden, described.layers, described.kv_heads) == (32, 2, 2)
    assert described.linears["gate_proj"] == (32, 48)


def test_the_doctor_reads_it(tiny: Path) -> None:
    settings = {"student": str(tiny), "teacher": str(tiny), "prompts": {"count": 8}}
    findings = {f.code: f for f in static(parse(settings), lambda _: None)}
    assert "model-refused" not in findings, findings["model-refused"].text
    assert findings["tokenizer-same"].severity == "ok"
    assert findings["stops-same"].evidence["student"] == [f"{EOS} (<eos>)"]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown architecture": ({"architecture": "clip"}, "holds clip"),
    "an adapter": ({"add": {"general.type": "adapter"}}, "holds llama (adapter)"),
    "a part of several": ({"add": {"split.count": 3}}, "one of 3 parts"),
    "scaled rotary positions": (
        {"tensors": {"rope_freqs.weight": np.ones(4, np.float32)}},
        "scales its rotary positions (rope_freqs.weight)",
    ),
    "scaling in words": ({"add": {"llama.rope.scaling.type": "yarn"}}, "positions (yarn)"),
    "a strange way to split text": ({"pre": "runes"}, "splits text as 'runes'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_loaded_wrongly_is_refused_before_a_run(
    case: str, llama: Any, tmp_path: Path
) -> None:
    options, message = REFUSED[case]
    file = write_llama(tmp_path / "odd.gguf", llama, tokenizer(), **options)
    with pytest.raises(ConfigError) as refused:
        check_inputs(parse({"student": str(file)}))
    (problem,) = refused.value.problems
    assert problem["field"] == "student.model"
    assert message in problem["message"]


def test_tensors_too_many_and_too_few_are_refused(llama: Any, tmp_path: Path) -> None:
    extra = {"blk.0.attn_q.bias": np.ones(32, np.float32)}
    more = write_llama(tmp_path / "more.gguf", llama, tokenizer(), tensors=extra)
    less = write_llama(tmp_path / "less.gguf", llama, tokenizer(), without=("blk.1.ffn_up.weight",))
    for file, message in ((more, "numbers, of which"), (less, "layers.1.mlp.up_proj.weight")):
        with pytest.raises(UserError, match=message) as refused:
            load_model(file, where="student.model")
        assert refused.value.kind == ErrorKind.REFUSED_MODEL


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "only 0 bytes"),
        (b"PK\x03\x04" + bytes(60), "does not begin with GGUF"),
        (b"GGUF\x01" + bytes(60), "version 1"),
        (b"GGUF\x03\0\0\0" + b"\xff" * 60, "entries"),
        (b"GGUF\x03\0\0\0" + bytes(8) + b"\x01" + bytes(7) + b"\xff\xff" + bytes(40), "breaks off"),
    ],
)
def test_a_damaged_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        check_inputs(parse({"student": str(file)}))


def test_a_missing_file_and_a_folder_of_files_say_what_to_give(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(ConfigError, match="no such model folder"):
        check_inputs(parse({"student": str(tmp_path / "none.gguf")}))
    (tmp_path / "q8.gguf").symlink_to(tiny)
    with pytest.raises(ConfigError, match=r"name the file: .*q8\.gguf"):
        check_inputs(parse({"student": str(tmp_path)}))


def test_without_the_extra_its_name_is_said(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("opd.config.gguf.header.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"opd-studio\[smollm\]"):
        check_inputs(parse({"student": str(tiny)}))


def test_weights_of_a_gguf_are_not_quantised_again(tiny: Path) -> None:
    with pytest.raises(UserError, match="take quantize none") as refused:
        load_model(tiny, where="teacher.model", quantize="int8")
    assert refused.value.where == "teacher.quantize"
