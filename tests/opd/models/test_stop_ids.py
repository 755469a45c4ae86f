"""Which id ends an assistant's message, by templates as model families have them."""

import json
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.errors import UserError
from opd.models.load import load_student
from opd.models.stop_ids import as_ids, declared_stops, stop_ids, stops_in_files, template_end
from tests.support import tiny_models

CPU = torch.device("cpu")
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('must alternate') }}"
    "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content }}<|eot_id|>{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
)
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>{% generation %}"
    "{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}\n{% endif %}"
    "{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}<|im_end|>{% endfor %}"
)
GLM = "[gMASK]{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
WITHOUT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
REFUSING = "{{ raise_exception('only tools') }}"
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}"
    "{% else %}<｜Assistant｜>{{ m.content.split('</think>')[-1] }}<｜end▁of▁sentence｜>{% endif %}"
    "{% endfor %}"
)


def chat_tokenizer(template: str | None, *special: str, eos: str = "<eos>", **more: Any) -> Any:
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.eos_token = eos
    tokenizer.chat_template = template
    for name, token in more.items():
        setattr(tokenizer, name, token)
    return tokenizer


# Template, special tokens, the tokenizer's EOS, what the model declares, and the message's end
FAMILIES: dict[str, tuple[str | None, tuple[str, ...], str, tuple[str, ...], str]] = {
    "Qwen": (CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<eos>",), "<|im_end|>"),
    "ChatML over a base": (
        CHATML,
        ("<|im_start|>", "<|im_end|>"),
        "<eos>",
        ("<eos>",),
        "<|im_end|>",
    ),
    "Gemma": (GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<eos>", ("<eos>",), "<end_of_turn>"),
    "Llama 3": (
        LLAMA,
        ("<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>"),
        "<eos>",
        ("<eos>", "<|eom_id|>", "<|eot_id|>"),
        "<|eot_id|>",
    ),
    "Mistral": (MISTRAL, ("[INST]", "[/INST]", "</s>"), "</s>", ("<eos>", "</s>"), "</s>"),
    "Phi": (PHI, ("<|user|>", "<|assistant|>", "<|end|>"), "<eos>", ("<eos>",), "<|end|>"),
    "harmony": (
        HARMONY,
        ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>", "<|call|>"),
        "<|return|>",
        ("<|call|>", "<|return|>"),
        "<|return|>",
    ),
    "generation markers": (GENERATION, ("<|im_start|>", "<|im_end|>"), "<eos>", (), "<|im_end|>"),
    "parts": (PARTS, ("<|im_end|>",), "<eos>", ("<eos>",), "<|im_end|>"),
    "GLM": (
        GLM,
        ("[gMASK]", "<|user|>", "<|assistant|>"),
        "<eos>",
        ("<eos>", "<|user|>"),
        "<|user|>",
    ),
    "DeepSeek": (
        DEEPSEEK,
        ("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
        "<eos>",
        ("<eos>",),
        "<｜end▁of▁sentence｜>",
    ),
    "writes none": (WITHOUT, ("<x>", "<y>"), "<eos>", ("<y>", "<eos>"), "<eos>"),
    "refuses": (REFUSING, ("<x>", "<y>"), "<eos>", ("<y>", "<x>"), "<x>"),
    "no template": (None, ("<x>", "<y>"), "<eos>", ("<y>",), "<y>"),
    "declares none": (None, ("<x>",), "<x>", (), "<x>"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_template_writes_ends_a_message_in_any_order_of_the_list(family: str) -> None:
    template, special, eos, declares, end = FAMILIES[family]
    tokenizer = chat_tokenizer(template, *special, eos=eos)
    right = tokenizer.convert_tokens_to_ids(end)
    ids = tokenizer.convert_tokens_to_ids(list(declares))
    for declared in permutations(ids):
        stops = stop_ids(declared, tokenizer, [77])
        assert stops[0] == right
        assert set(stops) == {right, *ids, tokenizer.eos_token_id, 77}
    written = template_end(tokenizer, ids)
    assert written == (right if template not in (None, WITHOUT, REFUSING) else None)


def test_bos_and_unknown_text_behind_a_message_end_nothing() -> None:
    template = "{% for m in messages %}{{ m.content }}\n{{ bos_token }}語{% endfor %}"
    tokenizer = chat_tokenizer(template, "<s>", "<unk>", bos_token="<s>", unk_token="<unk>")
    assert template_end(tokenizer) is None
    tokenizer.eos_token = "<s>"  # as GPT-2: one token for both
    assert template_end(tokenizer) == tokenizer.bos_token_id


@pytest.mark.parametrize("form", ["list", "one", "only the configuration", "nested", "none"])
def test_files_declare_what_the_loaded_model_declares(tmp_path: Path, form: str) -> None:
    folder = Path(tiny_models.save_model(tmp_path, eos=[9, 7] if form == "list" else 7))
    if form in ("only the configuration", "nested", "none"):
        path = folder / "generation_config.json"
        data = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in data.items() if k != "eos_token_id"}))
        path = folder / "config.json"
        data = json.loads(path.read_text()) | {"eos_token_id": 5 if form != "none" else None}
        path.write_text(json.dumps(data))
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = {"list": [9, 7], "one": [7], "none": []}.get(form, [5])
    assert declared_stops(model) == expected
    if form == "nested":
        path.write_text(json.dumps({"text_config": {"eos_token_id": 5}}))
    assert stops_in_files(folder) == expected


def test_a_folder_without_an_end_stops_only_at_configured_ids(tmp_path: Path) -> None:
    folder = Path(tiny_models.save_model(tmp_path))
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({k: v for k, v in data.items() if "eos" not in k}))
    assert load_student(str(folder), device=CPU, more_stops=[9, 4]).end_id == 9
    with pytest.raises(UserError, match=r"no answer could ever end.*sampling\.stop_ids") as caught:
        _ = load_student(str(folder), device=CPU).end_id
    assert caught.value.where == "student.model"
    assert as_ids(None) == [] and as_ids(3) == [3]
