"""The doctor names special tokens that the data's texts contain."""

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, processors

from opd.config.run import parse
from opd.data.prompts import load_prompts
from opd.doctor.data.texts import check_texts
from opd.doctor.findings import Finding
from opd.doctor.models import LocalModel
from opd.models.folders.resolve import resolve
from opd.models.tokenizers import load_tokenizer
from tests.opd.doctor.test_examine import rows
from tests.support import tiny_models

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def student(form: str | None = None) -> LocalModel:
    tokenizer = tiny_models.tokenizer()
    more = {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    tokenizer.add_special_tokens({"bos_token": "<s>", **more})
    tokenizer.chat_template = CHATML
    if form is not None:
        pairs = [(t, tokenizer.convert_tokens_to_ids(t)) for t in ("<s>", "<eos>")]
        tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
            single=form, special_tokens=pairs
        )
    return LocalModel("student", "s", tokenizer, None, (0,))


def look(
    model: LocalModel, path: Path, *items: dict[str, Any], **prompts: Any
) -> dict[str, Finding]:
    given = "completion" in items[0]
    source = rows(path / "rows.jsonl", *items)
    config = parse(
        {
            "prompts": {"source": source, "eval_source": source, **prompts},
            **({"objective": "sft", "sampling": {"source": "given"}} if given else {}),
        }
    )
    train = load_prompts(config, model.tokenizer, 512).train
    return {f.code: f for f in check_texts(config, model, train)}


def test_clean_texts_have_no_finding(tmp_path: Path) -> None:
    assert look(student("<s> $A"), tmp_path, {"prompt": "1 + 2 ="}, {"prompt": "a"}) == {}
    given = {"prompt": "1 + 2 =", "completion": " 3"}
    assert look(student("<s> $A"), tmp_path, given, {**given, "prompt": "a"}) == {}
    assert look(student(), tmp_path, {"prompt": "hi"}, chat=True) == {}


@pytest.mark.parametrize(
    ("form", "text"), [("<s> $A", "<s>1 + 2"), (None, "<s><s>1 + 2"), ("<s> $A", "<s><s>1")]
)
def test_a_start_that_is_written_twice(tmp_path: Path, form: str | None, text: str) -> None:
    finding = look(student(form), tmp_path, {"prompt": text}, {"prompt": "1 + 2"})["start-twice"]
    assert finding.severity == "warning" and "1 of 2" in finding.title and "<s>" in finding.title
    assert text in finding.evidence["text"] and "prompts.chat" in finding.advice


def test_a_text_with_its_bos_is_fine_where_the_tokenizer_adds_none(tmp_path: Path) -> None:
    assert look(student(), tmp_path, {"prompt": "<s>1 + 2"}) == {}


def test_a_tokenizer_that_appends_an_end(tmp_path: Path) -> None:
    findings = look(student("<s> $A <eos>"), tmp_path, {"prompt": "1 + 2"})
    assert list(findings) == ["tokenizer-appends"]
    assert findings["tokenizer-appends"].evidence == {"appended": ["0 (<eos>)"]}


def test_prompts_that_end_and_chats_that_are_rendered_twice(tmp_path: Path) -> None:
    findings = look(student(), tmp_path, {"prompt": "1 + 2<eos>"}, {"prompt": "a"})
    assert findings["prompt-ends"].evidence["count"] == 1
    rendered = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    findings = look(student(), tmp_path, {"prompt": rendered}, {"prompt": "hi"}, chat=True)
    assert list(findings) == ["special-in-messages"]
    assert "prompts.chat" in findings["special-in-messages"].advice


def test_special_tokens_without_a_role_are_seen_in_messages(tmp_path: Path) -> None:
    model = student()
    model.tokenizer.add_tokens([AddedToken("<|sep|>", special=True), AddedToken("<think>")])
    assert model.tokenizer.convert_tokens_to_ids("<|sep|>") not in model.tokenizer.all_special_ids
    findings = look(model, tmp_path, {"prompt": "a<|sep|>b"}, {"prompt": "<think>"}, chat=True)
    assert findings["special-in-messages"].evidence["count"] == 1


def test_what_the_template_writes_before_given_replies_is_said(tmp_path: Path) -> None:
    model = student()
    model.tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}so: {% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    row = {"prompt": "1 + 2 =", "completion": "3"}
    findings = look(model, tmp_path, row, {**row, "completion": "so: 3"}, chat=True)
    assert (
        findings["reply-lead"].evidence["count"] == 1 and "'so: '" in findings["reply-lead"].title
    )


def test_given_completions_with_ends_and_shared_tokens(tmp_path: Path) -> None:
    findings = look(
        student(),
        tmp_path,
        {"prompt": "The te", "completion": "acher"},
        {"prompt": "1 + 2 =", "completion": " 3<eos>\n"},
        {"prompt": "1 + 2 =", "completion": " 3<eos>User: 4"},
    )
    assert {code: f.evidence["count"] for code, f in findings.items()} == {
        "completion-ended": 1,
        "stop-inside": 1,
        "merged-boundary": 1,
    }
    assert findings["stop-inside"].severity == "warning"
    assert "acher" in findings["merged-boundary"].evidence["completion"]


def test_text_that_the_vocabulary_lacks_is_said(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(resolve("bundled/student", where="x"), where="x")
    model = LocalModel("student", "s", tokenizer, None, (0,))
    findings = look(model, tmp_path, {"prompt": "1 + zebra ="}, {"prompt": "1 + 2 ="})
    finding = findings["prompt-unknown-tokens"]
    assert (finding.severity, finding.evidence["count"]) == ("warning", 1)
    assert finding.title.startswith("1 of 2 prompts") and "(<unk>)" in finding.text
    assert "prompt-unknown-tokens" not in look(model, tmp_path, {"prompt": "1 + 2 ="})
