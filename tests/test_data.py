"""Prompts: rows that cannot be used are named by file and line; draws follow from the seed."""

import json

import pytest
import tiny

from opd.config import parse
from opd.data import PromptSet, load_prompts
from opd.types import UserError


def load(tmp_path, lines, context=256, **config):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    settings = {"prompts": {"source": str(path), **config.pop("prompts", {})}, **config}
    return load_prompts(parse(settings), tiny.tokenizer(), context)


def refusal(tmp_path, lines, **config):
    with pytest.raises(UserError) as caught:
        load(tmp_path, lines, **config)
    return str(caught.value)


def test_split_is_disjoint_and_seeded(tmp_path):
    lines = [json.dumps({"prompt": f"question {i}", "answer": i}) for i in range(40)]
    first = load(tmp_path, lines)
    assert len(first.held_out) == 4
    assert len(first.train) == 36
    assert not {p.text for p in first.train} & {p.text for p in first.held_out}
    assert [p.text for p in load(tmp_path, lines).train] == [p.text for p in first.train]
    assert [p.text for p in load(tmp_path, lines, seed=1).train] != [p.text for p in first.train]
    assert all(p.answer == p.text.split()[1] for p in first.train)
    assert len({p.number for p in [*first.train, *first.held_out]}) == 40


def test_own_evaluation_file(tmp_path):
    other = tmp_path / "eval.jsonl"
    other.write_text('{"prompt": "e"}\n')
    found = load(
        tmp_path, ['{"prompt": "a"}', "", '{"prompt": "b"}'], prompts={"eval_source": str(other)}
    )
    assert [p.text for p in found.train] == ["a", "b"]
    assert [p.text for p in found.held_out] == ["e"]
    assert found.train[0].answer is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"promt": "a"}', "prompt is missing"),
        ('{"prompt": ""}', "non-empty"),
        ('{"prompt": 7}', "7"),
        ('{"prompt": "a\\ud800"}', "surrogate"),
        ('{"prompt": "a\\ud800"}', "surrogate"),
        ('{"prompt": "a", "answer": [1]}', "answer"),
        ('{"prompt": "a", "answer": true}', "True"),
        ("[1]", "JSON object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    text = refusal(tmp_path, ['{"prompt": "fine"}', "", line])
    assert "prompts.jsonl:3" in text
    assert message in text


def test_files_that_cannot_be_used(tmp_path):
    assert "holds no prompts" in refusal(tmp_path, [""])
    assert "at least 2" in refusal(tmp_path, ['{"prompt": "a"}'])
    with pytest.raises(UserError, match="cannot be read"):
        load_prompts(parse({"prompts": str(tmp_path / "none")}), tiny.tokenizer(), 256)
    (tmp_path / "x").write_bytes(b"\xff\xff\n")
    with pytest.raises(UserError, match="UTF-8"):
        load_prompts(parse({"prompts": str(tmp_path / "x")}), tiny.tokenizer(), 256)


def test_prompt_longer_than_the_context(tmp_path):
    lines = ['{"prompt": "short"}', json.dumps({"prompt": "x" * 300})]
    text = refusal(tmp_path, lines)
    assert "300 tokens" in text
    assert "192" in text  # 256 − 64 new tokens
    assert "leaves no room" in refusal(tmp_path, lines, context=64)


def test_draws_follow_from_seed_and_step(tmp_path):
    lines = [json.dumps({"prompt": f"question {i}"}) for i in range(12)]
    found: PromptSet = load(tmp_path, lines)
    assert len(found.train) == 11
    draws = [p.number for step in range(1, 12) for p in found.for_step(step, 4, seed=0)]
    for turn in range(4):  # every pass over the set takes each prompt once
        assert sorted(draws[turn * 11 : turn * 11 + 11]) == sorted(p.number for p in found.train)
    assert draws[:11] != draws[11:22]
    again = [p.number for p in found.for_step(5, 4, seed=0)]
    assert again == draws[16:20]
    assert again != [p.number for p in found.for_step(5, 4, seed=1)]


def test_bundled_problems():
    from opd.models import load_tokenizer, resolve  # noqa: PLC0415 - beside its only use

    tokenizer = load_tokenizer(resolve("bundled/student", where="test"), where="test")
    found = load_prompts(
        parse({"prompts": {"count": 50}, "evaluation": {"prompts": 20}}), tokenizer, 512
    )
    assert len(found.train) == 50
    assert len(found.held_out) == 20
    assert not {p.text for p in found.train} & {p.text for p in found.held_out}
    with pytest.raises(UserError, match="prompts"):
        load_prompts(parse({"prompts": {"count": 900_000, "problem_steps": 1}}), tokenizer, 512)
