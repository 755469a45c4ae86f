"""The preview of a file, and every line of docs/data.md, loaded as the document says."""

import json
import re
from pathlib import Path

import pytest
import yaml

from opd.config.data import PromptsConfig
from opd.data.preview import preview
from opd.grading.graders import GRADERS, grade
from tests.support import tiny_models

DOCUMENT = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^### (.+?)\n(.*?)(?=^##|\Z)", re.M | re.S)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)
FORMS, GRADED = (DOCUMENT.partition("## Answers and graders")[i] for i in (0, 2))


def sections(text):
    made = []
    for title, body in SECTION.findall(text):
        blocks = dict(BLOCK.findall(body))
        made.append((title, yaml.safe_load(blocks.get("yaml", "{}")), blocks["json"]))
    return made


def seen(tmp_path, text, tokenizer=None, **settings):
    path = tmp_path / "a.jsonl"
    path.write_text(text, encoding="utf-8")
    data = PromptsConfig.model_validate({"source": str(path), **settings})
    return preview(data, count=5, tokenizer=tokenizer, say=lambda _: None)


def title_of(value):
    return value if isinstance(value, str) else ""


@pytest.mark.parametrize(("title", "settings", "lines"), sections(FORMS), ids=title_of)
def test_every_form_of_the_document(tmp_path, title, settings, lines):
    result = seen(tmp_path, lines, **settings)
    assert result.problems == []
    assert result.rows == len(result.shown) == lines.count("\n")
    expected = {"ShareGPT": "ShareGPT", "Alpaca": "Alpaca", "Text": "text", "Other names": "text"}
    assert result.form.startswith(expected.get(title, "messages"))
    assert not {"tools", "system", "chat_template_kwargs"} & set(result.unread)
    for row in result.shown:
        question = row.prompt if isinstance(row.prompt, str) else row.prompt[-1]["content"]
        assert question in ("What is 2 + 3?", "Weather?", "Add the numbers.\n\n2, 3")
        assert row.completion in (None, "5", "")
        assert row.answer in (None, "5")


@pytest.mark.parametrize(("grader", "settings", "lines"), sections(GRADED), ids=title_of)
def test_every_grader_of_the_document(tmp_path, grader, settings, lines):
    result = seen(tmp_path, lines, grader=grader, **settings)
    data = PromptsConfig.model_validate({"grader": grader, **settings})
    assert result.problems == []
    for row in result.shown:
        expected = None if grader == "none" else 1.0
        assert grade(data, row.completion or "", row.answer) == expected


def test_the_document_has_every_grader():
    assert {title for title, *_ in sections(GRADED)} == {*GRADERS, "none"}


def test_rows_that_cannot_be_used_are_listed(tmp_path):
    rows = [
        {"prompt": "a", "level": 1},
        {"prompt": ""},
        {"prompt": "A "},
        {"prompt": "c", "answer": 1},
    ]
    result = seen(tmp_path, "".join(json.dumps(r) + "\n" for r in rows))
    assert (result.rows, result.unusable, result.repeats, result.answers) == (4, 1, 1, 1)
    [(where, message)] = result.problems
    assert where.endswith("a.jsonl:2") and "non-empty text" in message
    assert result.unread == {"level": 1}


def test_chats_are_rendered_by_a_model(tmp_path):
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    line = '{"messages": [{"role": "user", "content": "a"}], "system": "s"}'
    assert seen(tmp_path, line, tokenizer).shown[0].prompt == "<system>s<user>a"
