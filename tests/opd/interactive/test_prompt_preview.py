"""A run's prompts before it starts, as student and teacher will read them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from opd.config.run import parse
from opd.data.prompts import load_prompts
from opd.errors import UserError
from opd.interactive import prompt_preview
from opd.interactive.prompt_preview import PromptPreview, preview_prompts
from opd.models.tokenizers import load_tokenizer
from opd.sampling.sample import Stopped
from tests.support import tiny_models

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if mood %}{{ mood }}{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of chats with a context of 256 tokens."""
    folder = tmp_path_factory.mktemp("models") / "chat"
    tiny_models.save_model(folder)
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 256}))
    return folder


@pytest.fixture
def preview(model: Path, tmp_path: Path) -> Any:
    def made(rows: list[Any], name: str = "train", **sections: Any) -> PromptPreview:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
        config = {
            "student": {"model": str(model)},
            "teacher": {"model": str(model)},
            "sampling": {"max_new_tokens": 16},
            "evaluation": {"prompts": 2},
        }
        for section, values in sections.items():
            config[section] = {**config.get(section, {}), **values}
        config["prompts"] = {"source": str(path), "grader": "none", "probe": 0} | config.get(
            "prompts", {}
        )
        return preview_prompts(parse(config), name)

    return made


def text_of(reader: Any) -> str:
    return "".join(piece.text for piece in reader.pieces)


CHATS = [
    {"conversations": [{"from": "human", "value": f"What is {n}?"}], "answer": str(n), "level": n}
    for n in range(12)
]
PLAIN = [
    {"prompt": f"Say {n}", "hint": "think", "subject": "a" if n % 2 else "b"} for n in range(9)
]


def test_a_chat_as_each_of_its_readers_sees_it(preview: Any) -> None:
    seen = preview(
        CHATS,
        prompts={"system": "Be brief.", "template_args": {"mood": "hm"}, "grader": "exact"},
        teacher={"prompt": "{prompt} It is {answer}.", "system": "You know level {level}."},
    )
    assert seen.rows.form == "ShareGPT"
    assert seen.rows.columns == {
        "conversations": "prompt",
        "answer": "answer",
        "level": "teacher's prompt",
    }
    assert (len(seen.prompts), seen.problem, seen.note) == (3, "", "")
    for prompt in seen.prompts:
        student, teacher = prompt.readers
        question = prompt.fields["conversations"].split('"value": "')[1].split('"')[0]
        assert text_of(student) == (
            f"<|system|>Be brief.<eos><|user|>{question}<eos><|assistant|>hm"
        )
        assert text_of(teacher) == (
            f"<|system|>You know level {prompt.answer}.<eos><|user|>{question} It is "
            f"{prompt.answer}.<eos><|assistant|>hm"
        )
        assert [p.text for p in student.pieces if p.kind == "special"] == ["<eos>", "<eos>"]
        assert (teacher.section, teacher.same, prompt.verdict) == ("teacher", False, "kept")


def test_the_counts_are_those_of_the_run(preview: Any, model: Path, tmp_path: Path) -> None:
    seen = preview(CHATS)
    config = parse(
        {
            "student": {"model": str(model)},
            "prompts": {"source": str(tmp_path / "rows.jsonl"), "grader": "none", "probe": 0},
            "evaluation": {"prompts": 2},
            "sampling": {"max_new_tokens": 16},
        }
    )
    run = load_prompts(config, load_tokenizer(model, where="x"), 256)
    assert [p.readers[0].tokens for p in seen.prompts] == [len(p.ids) for p in run.train[:3]]
    assert [text_of(p.readers[0]) for p in seen.prompts] == [p.text for p in run.train[:3]]
    assert (seen.count, seen.counted) == (len(run.train), len(run.train))
    assert seen.longest == max(len(p.ids) for p in run.train)
    assert seen.prompts[0].readers[0].limit == 256 - 16
    student, teacher = seen.prompts[0].readers
    assert teacher.same and teacher.tokens == student.tokens and not teacher.pieces


def test_each_prompt_names_the_teacher_of_its_route(preview: Any, model: Path) -> None:
    route = {"a": {"model": str(model), "prompt": "{hint}: {prompt}"}}
    seen = preview(PLAIN, teacher={"route_by": "subject", "routes": route})
    assert seen.rows.columns["subject"] == "teacher's route"
    assert seen.rows.columns["hint"] == "teacher's prompt"
    fields = set()
    for prompt in seen.prompts:
        teacher = prompt.readers[1]
        fields.add(teacher.section)
        if prompt.fields["subject"] == "a":
            assert teacher.section == "teacher.routes.a"
            assert text_of(teacher) == f"think: {prompt.fields['prompt']}"
        else:
            assert (teacher.section, teacher.same) == ("teacher", True)
    assert fields
    missing = preview(PLAIN, teacher={"route_by": "topic", "routes": route})
    assert "has no field 'topic'" in missing.prompts[0].readers[1].problem
    assert missing.prompts[0].verdict == "refused"


@pytest.mark.parametrize(("overlong", "verdict"), [("error", "refused"), ("drop", "left out")])
def test_what_is_too_long_is_said(
    preview: Any, tmp_path: Path, overlong: str, verdict: str
) -> None:
    rows = [{"prompt": "word " * (40 if n % 2 else 2) + str(n)} for n in range(12)]
    settings = {"max_prompt_tokens": 30, "overlong": overlong, "eval_source": str(tmp_path / "e")}
    (tmp_path / "e").write_text('{"prompt": "b"}\n', encoding="utf-8")
    seen = preview(rows, prompts=settings)
    assert (seen.count, seen.counted, seen.too_long) == (12, 12, 6)
    assert [p.verdict for p in seen.prompts] == ["kept", verdict, "kept"]
    for prompt in seen.prompts:
        student = prompt.readers[0]
        assert (student.limit, student.limited_by) == (30, "max_prompt_tokens")


def test_sets_have_their_own_rows_and_limits(preview: Any, tmp_path: Path) -> None:
    other = tmp_path / "suite.jsonl"
    other.write_text('{"prompt": "Only in the suite"}\n', encoding="utf-8")
    suites = {"mine": {"source": str(other), "grader": "none", "max_prompt_tokens": 5}}
    sets: dict[str, Any] = {
        name: preview(PLAIN, name, evaluation={"prompts": 2, "suites": suites})
        for name in ("train", "held-out", "evaluation.suites.mine")
    }
    texts = {name: {text_of(p.readers[0]) for p in seen.prompts} for name, seen in sets.items()}
    assert texts["evaluation.suites.mine"] == {"Only in the suite"}
    assert texts["train"].isdisjoint(texts["held-out"]) and texts["held-out"]
    suite = sets["evaluation.suites.mine"]
    assert "student only" in suite.note and len(suite.prompts[0].readers) == 1
    assert suite.prompts[0].verdict == "refused"
    with pytest.raises(UserError, match="no set of prompts is called 'tests'; there are train"):
        preview(PLAIN, "tests")


def test_unusable_rows_stand_with_their_reasons(preview: Any) -> None:
    rows = [{"prompt": "fine"}, {"prompt": ""}, {"prompt": 3}, *PLAIN]
    seen = preview(rows)
    assert [w.rpartition(":")[2] for w, _ in seen.rows.problems] == ["2", "3"]
    assert "non-empty text" in seen.problem
    assert text_of(seen.prompts[0].readers[0]) == "fine"
    with pytest.raises(UserError, match=r"^prompts\.source: .* cannot be read"):
        preview([], prompts={"source": "/no/such.jsonl"})


def test_a_template_that_refuses_is_told_at_its_prompt(preview: Any) -> None:
    seen = preview(PLAIN, teacher={"prompt": "{solution}"})
    [_, teacher] = seen.prompts[0].readers
    assert teacher.problem.startswith("teacher.prompt: ") and "solution" in teacher.problem
    assert seen.prompts[0].verdict == "refused"
    seen = preview(PLAIN, teacher={"system": "a"})
    assert "only chat prompts have a system message" in seen.prompts[0].readers[1].problem


def test_long_prompts_are_cut_in_the_middle(preview: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt_preview, "HEAD", 4)
    monkeypatch.setattr(prompt_preview, "TAIL", 2)
    reader = preview([{"prompt": "naïve 語 🙂 " * 3}, {"prompt": "語" * 9}]).prompts[0].readers[0]
    kinds = [p.kind for p in reader.pieces]
    assert kinds == ["", "cut", ""]
    assert reader.pieces[1].text == f"{reader.tokens - 6} tokens not shown"


def test_without_a_teacher_the_reason_is_said(preview: Any) -> None:
    rows = [{**r, "answer": "1"} for r in PLAIN]
    seen = preview(rows, objective={"name": "grpo"}, prompts={"grader": "exact"})
    assert seen.note == "The objective grpo uses no teacher."
    assert [len(p.readers) for p in seen.prompts] == [1, 1, 1]
    unanswered = preview(PLAIN, objective={"name": "grpo"}, prompts={"grader": "exact"})
    assert "the objective needs a reward" in unanswered.problem


def test_it_stops_when_nobody_waits(model: Path) -> None:
    config = parse({"student": {"model": str(model)}, "teacher": {"model": str(model)}})
    with pytest.raises(Stopped):
        preview_prompts(config, "train", stop=lambda: True)


def test_as_plain_data(preview: Any) -> None:
    seen = preview(PLAIN)
    data = json.loads(json.dumps(seen.as_dict()))
    assert data["rows"]["form"] == "text"
    assert data["prompts"][0]["readers"][0]["pieces"][0]["text"].startswith("Say ")
    assert replace(seen, name="x").as_dict()["name"] == "x"
