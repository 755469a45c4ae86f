"""Prompts: rows that cannot be used are named by file and line; draws follow from the seed."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opd.config.run import parse
from opd.data.prompts import PromptSet, load_prompts, rendered
from opd.errors import UserError
from tests.support import tiny_models


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def load(tmp_path, lines, context=256, say=lambda _: None, **config):
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    settings = {"prompts": {"source": str(path), **config.pop("prompts", {})}, **config}
    return load_prompts(parse(settings), tiny_models.tokenizer(), context, say)


def refusal(tmp_path, lines, **config):
    with pytest.raises(UserError) as caught:
        load(tmp_path, lines, **config)
    return str(caught.value)


def test_split_is_disjoint_and_seeded(tmp_path):
    lines = [json.dumps({"prompt": f"question {i}", "answer": i}) for i in range(40)]
    first = load(tmp_path, lines)
    assert (len(first.held_out), len(first.probe)) == (3, 1)
    assert len(first.train) == 36
    others = [*first.held_out, *first.probe]
    assert not {p.text for p in first.train} & {p.text for p in others}
    assert [p.text for p in load(tmp_path, lines).train] == [p.text for p in first.train]
    assert [p.text for p in load(tmp_path, lines, seed=1).train] != [p.text for p in first.train]
    assert all(p.answer == p.text.split()[1] for p in first.train)
    assert len({p.number for p in [*first.train, *others]}) == 40


def test_own_evaluation_file(tmp_path):
    other = tmp_path / "eval.jsonl"
    other.write_text('{"prompt": "e"}\n')
    prompts = load(
        tmp_path, ['{"prompt": "a"}', "", '{"prompt": "b"}'], prompts={"eval_source": str(other)}
    )
    assert [p.text for p in prompts.train] == ["a", "b"]
    assert [p.text for p in prompts.held_out] == ["e"]
    assert prompts.train[0].answer is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"promt": "a"}', "prompt is missing"),
        ('{"prompt": ""}', "non-empty"),
        ('{"prompt": 7}', "7"),
        ('{"prompt": "a\\ud800"}', "surrogate"),
        ('{"prompt": "a", "answer": []}', "answer is an empty list"),
        ('{"prompt": "a", "answer": [null]}', "answer must be"),
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
        load_prompts(parse({"prompts": str(tmp_path / "none")}), tiny_models.tokenizer(), 256)
    (tmp_path / "x").write_bytes(b"\xff\xff\n")
    with pytest.raises(UserError, match="UTF-8"):
        load_prompts(parse({"prompts": str(tmp_path / "x")}), tiny_models.tokenizer(), 256)


def test_prompt_longer_than_the_context(tmp_path):
    lines = ['{"prompt": "short"}', json.dumps({"prompt": "x" * 300})]
    text = refusal(tmp_path, lines)
    assert "300 tokens" in text
    assert "192" in text  # 256 − 64 new tokens
    assert "leaves no room" in refusal(tmp_path, lines, context=64)


def test_draws_follow_from_seed_and_step(tmp_path):
    lines = [json.dumps({"prompt": f"question {i}"}) for i in range(12)]
    prompts: PromptSet = load(tmp_path, lines)
    assert len(prompts.train) == 11
    draws = [p.number for step in range(1, 12) for p in prompts.for_step(step, 4, seed=0)]
    for turn in range(4):  # every pass over the set takes each prompt once
        assert sorted(draws[turn * 11 : turn * 11 + 11]) == sorted(p.number for p in prompts.train)
    assert draws[:11] != draws[11:22]
    again = [p.number for p in prompts.for_step(5, 4, seed=0)]
    assert again == draws[16:20]
    assert again != [p.number for p in prompts.for_step(5, 4, seed=1)]


def test_bundled_problems():
    from opd.models.folders.resolve import resolve  # noqa: PLC0415 - beside its only use
    from opd.models.tokenizers import load_tokenizer  # noqa: PLC0415

    tokenizer = load_tokenizer(resolve("bundled/student", where="test"), where="test")
    prompts = load_prompts(
        parse({"prompts": {"count": 50}, "evaluation": {"prompts": 20}}), tokenizer, 512
    )
    assert len(prompts.train) == 50
    assert len(prompts.held_out) == 20
    assert not {p.text for p in prompts.train} & {p.text for p in prompts.held_out}
    with pytest.raises(UserError, match="prompts"):
        load_prompts(parse({"prompts": {"count": 900_000, "problem_steps": 1}}), tokenizer, 512)


def test_a_stored_configuration_asks_for_no_column_by_its_defaults():
    """A run stores every field, and so names every column, wished for or not."""
    tokenizer = tiny_models.tokenizer()
    whole = parse({"prompts": {"count": 5}}).model_dump(mode="json")
    assert len(load_prompts(parse(whole), tokenizer, 512).train) == 5
    whole["prompts"]["columns"]["system"] = "instructions"
    with pytest.raises(UserError, match="no column 'instructions'"):
        load_prompts(parse(whole), tokenizer, 512)


def test_bundled_problems_can_be_others_to_choose_settings_on():
    def drawn(**prompts):
        config = parse({"prompts": {"count": 40, **prompts}, "evaluation": {"prompts": 40}})
        prompt_set = load_prompts(config, tiny_models.tokenizer(), 4096)
        return {p.text for p in prompt_set.train}, {p.text for p in prompt_set.held_out}

    train, held_out = drawn()
    others, judged = drawn(problem_seed=1)
    assert drawn() == (train, held_out)
    assert not held_out & judged and not train & others and not judged & train


def test_a_suite_can_have_longer_problems():
    suites = {"longer": {"source": "bundled", "problem_steps": 5, "count": 4}, "same": "bundled"}
    config = parse({"prompts": {"count": 4, "problem_steps": 2}, "evaluation": {"suites": suites}})
    prompts = load_prompts(config, tiny_models.tokenizer(), 4096)
    steps = {n: {p.completion.count("=") for p in s.prompts} for n, s in prompts.suites.items()}
    assert steps == {"longer": {5}, "same": {2}}


CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
    "{% endif %}"
)


def chatty():
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = CHAT
    return tokenizer


def load_chats(tmp_path, rows, **config):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"source": str(path), "eval_source": str(path), **config.pop("prompts", {})}
    return load_prompts(parse({"prompts": prompts, **config}), chatty(), 1024)


def said_by(role, content):
    return {"role": role, "content": content}


def test_plain_prompts_become_one_user_message(tmp_path):
    settings = {"chat": True, "system": "Be brief."}
    [prompt] = load_chats(tmp_path, [{"prompt": "Hi?"}], prompts=settings).train
    assert prompt.text == "<system>Be brief.</system><user>Hi?</user><assistant>"
    assert chatty().decode(prompt.ids) == prompt.text
    assert prompt.messages == (said_by("system", "Be brief."), said_by("user", "Hi?"))
    assert prompt.row["prompt"] == "Hi?"


def test_messages_always_go_through_the_template(tmp_path):
    given = [said_by("user", "a"), said_by("assistant", "b"), said_by("user", "c")]
    rows = [
        {"messages": [*given, said_by("assistant", "done")], "answer": 4.0},
        {"messages": [said_by("system", "own"), *given], "prompt": "not this"},
        {"prompt": given, "completion": "put there"},
        {"prompt": "plain"},
    ]
    prompts = load_chats(tmp_path, rows, prompts={"system": "ours"}).train
    chat = "<user>a</user><assistant>b</assistant><user>c</user><assistant>"
    assert [p.text for p in prompts] == [
        f"<system>ours</system>{chat}",
        f"<system>own</system>{chat}",
        f"<system>ours</system>{chat}",
        "plain",
    ]
    assert [p.completion for p in prompts] == ["done", None, "put there", None]
    assert (prompts[0].answer, prompts[0].row["prompt"]) == ("4", "c")
    assert [p.number for p in prompts] == [0, 1, 2, 3]


@pytest.mark.parametrize(("thinking", "end"), [(None, ""), (True, ""), (False, "<think></think>")])
def test_student_and_teacher_read_the_same_text(tmp_path, thinking, end):
    prompts = load_chats(
        tmp_path, [{"prompt": "Hi?"}], prompts={"chat": True, "thinking": thinking}
    )
    [prompt], data = prompts.train, found_data(thinking)
    assert prompt.text == f"<user>Hi?</user><assistant>{end}"
    same = rendered(prompt, data, chatty(), template=None, system=None)
    assert same == (prompt.text, prompt.ids)
    assert rendered(prompt, data, chatty(), template="{prompt}", system=None) == same
    hinted = rendered(prompt, data, chatty(), template=None, system="Know {prompt}")
    assert hinted[0] == f"<system>Know Hi?</system><user>Hi?</user><assistant>{end}"


def found_data(thinking=None):
    return parse({"prompts": {"chat": True, "thinking": thinking}}).prompts


def test_what_the_teacher_is_told(tmp_path):
    chat = [said_by("system", "s"), said_by("user", "Why?"), said_by("assistant", "x")]
    rows = [{"messages": chat, "answer": 7, "hint": "{answer}"}]
    [prompt] = load_chats(tmp_path, rows).train
    text, ids = rendered(
        prompt, found_data(), chatty(), template="{prompt} ({answer}: {hint})", system="T {answer}"
    )
    assert text == "<system>T 7</system><user>Why? (7: {answer})</user><assistant>"
    assert chatty().decode(ids) == text
    with pytest.raises(UserError, match=r"teacher\.prompt: no field 'solution'.*hint"):
        rendered(prompt, found_data(), chatty(), template="{solution}", system=None)


def test_what_the_teacher_is_told_of_a_plain_prompt(tmp_path):
    [prompt] = load(tmp_path, ['{"prompt": "a", "answer": 3}'] * 2).train
    data = parse({}).prompts
    text, ids = rendered(
        prompt, data, tiny_models.tokenizer(), template="3={answer} {prompt}", system=None
    )
    assert text == "3=3 a"
    assert list(ids) == tiny_models.tokenizer()("3=3 a")["input_ids"]
    with pytest.raises(UserError, match=r"teacher\.system: only chat prompts"):
        rendered(prompt, data, tiny_models.tokenizer(), template=None, system="s")


def test_a_tokenizer_without_a_chat_template(tmp_path):
    assert "prompts.chat: the student's tokenizer" in refusal(
        tmp_path, ['{"prompt": "a"}'] * 2, prompts={"chat": True}
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "must be a list"),
        ([], "must be a list"),
        ([{"content": "a"}], "message 1"),
        ([said_by("user", ["image"])], "content of message 1"),
        ([said_by("assistant", "a")], "no message to answer"),
    ],
)
def test_bad_chats_are_named(tmp_path, messages, message):
    with pytest.raises(UserError, match=r"chats\.jsonl:1") as caught:
        load_chats(tmp_path, [{"messages": messages}])
    assert message in str(caught.value)


def test_a_chat_that_the_template_refuses(tmp_path):
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n' * 2)
    config = parse({"prompts": {"source": str(tmp_path / "a.jsonl"), "chat": True}})
    with pytest.raises(UserError, match=r"a\.jsonl:\d: .*roles must alternate"):
        load_prompts(config, tokenizer, 256)


def test_columns_and_templates(tmp_path):
    rows = [{"question": f"q{i}", "solution": f"so\n#### {i},000", "topic": "t"} for i in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    settings = {
        "source": str(tmp_path / "a.parquet"),
        "columns": {"prompt": "question", "answer": "solution"},
        "prompt_template": "[{topic}] {prompt}",
        "answer_in_data": "#### (.+)",
        "grader": "numeric",
    }
    prompts = load_prompts(parse({"prompts": settings}), tiny_models.tokenizer(), 256)
    everything = sorted([*prompts.train, *prompts.held_out], key=lambda p: p.text)
    assert [p.text for p in everything] == [f"[t] q{i}" for i in range(4)]
    assert [p.answer for p in everything] == [f"{i},000" for i in range(4)]
    row = everything[1].row
    assert (row["prompt"], row["question"], row["answer"]) == ("q1", "q1", "1,000")
    assert row["full_answer"] == "so\n#### 1,000"

    def refused(**changes):
        with pytest.raises(UserError) as caught:
            load_prompts(parse({"prompts": settings | changes}), tiny_models.tokenizer(), 256)
        return str(caught.value)

    text = refused(prompt_template=None, columns={})
    assert text.startswith("prompts.columns.prompt: ")
    assert "no column 'prompt'; it has question, solution, topic" in text
    text = refused(columns={"prompt": "question", "answer": "result"})
    assert text.startswith("prompts.columns.answer: ")
    text = refused(prompt_template="{prompt} {level}")
    assert text.startswith("prompts.prompt_template: ")
    assert "no column 'level'" in text
    assert "a.parquet row" in refused(answer_in_data="= (.+)")
    assert "must contain a number" in refused(answer_in_data="so", grader="numeric")


def test_answers_that_are_objects(tmp_path):
    line = '{"prompt": "a", "answer": {"name": "f", "arguments": {"x": 1}}}'
    prompts = load(tmp_path, [line] * 2, prompts={"grader": "tool_call"})
    assert json.loads(prompts.train[0].answer) == {"name": "f", "arguments": {"x": 1}}
    assert "must be text or a number" in refusal(tmp_path, [line] * 2)


def test_rewards_and_given_completions_need_their_columns(tmp_path):
    lines = [json.dumps({"prompt": "a", "answer": "b", "completion": "c"})] * 3
    bare = ['{"prompt": "a"}'] * 3
    given = {"objective": "sft", "sampling": {"source": "given"}}
    assert load(tmp_path, lines, **given).train[0].completion == "c"
    assert "no completion in completion" in refusal(tmp_path, bare, **given)
    assert load(tmp_path, lines, objective="grpo")
    assert "no answer in answer" in refusal(tmp_path, bare, objective="grpo")
    number = '{"prompt": "a", "completion": 7}'
    assert "completion must be text" in refusal(tmp_path, [number] * 2, **given)


def test_long_prompts_are_refused_or_dropped(tmp_path):
    lines = [json.dumps({"prompt": "x" * n}) for n in (5, 8, 20, 9)]
    other = {"eval_source": str(tmp_path / "eval.jsonl"), "max_prompt_tokens": 9}
    (tmp_path / "eval.jsonl").write_text('{"prompt": "e"}\n')
    text = refusal(tmp_path, lines, prompts=other)
    assert "prompts.jsonl:3" in text
    assert "20 tokens; prompts.max_prompt_tokens is 9" in text
    said = []
    prompts = load(tmp_path, lines, prompts=other | {"overlong": "drop"}, say=said.append)
    assert [(p.number, len(p.ids)) for p in prompts.train] == [(0, 5), (1, 8), (3, 9)]
    assert said[-1] == "1 of 4 train prompts are too long and were left out"
    assert "all 4 train prompts are too long" in refusal(
        tmp_path, lines, prompts=other | {"overlong": "drop", "max_prompt_tokens": 2}
    )


def test_probe_and_suites_have_numbers_of_their_own(tmp_path):
    lines = [json.dumps({"prompt": f"question {i}", "answer": i}) for i in range(40)]
    (tmp_path / "suite.jsonl").write_text('{"q": "s", "answer": "1"}\n' * 5)
    suite = {"source": str(tmp_path / "suite.jsonl"), "columns": {"prompt": "q"}, "count": 3}
    prompts = load(
        tmp_path,
        lines,
        prompts={"probe": 1},
        evaluation={"suites": {"mine": suite | {"grader": "numeric"}, "own": {"count": 4}}},
    )
    assert (len(prompts.train), len(prompts.held_out), len(prompts.probe)) == (36, 3, 1)
    assert {n: len(s.prompts) for n, s in prompts.suites.items()} == {"mine": 3, "own": 4}
    assert prompts.suites["mine"].data.grader == "numeric"
    assert prompts.suites["own"].prompts[0].answer.isdigit()
    everything = [*prompts.train, *prompts.held_out, *prompts.probe]
    everything += [p for s in prompts.suites.values() for p in s.prompts]
    assert len({p.number for p in everything}) == len(everything)
    assert len({p.text for p in [*prompts.train, *prompts.held_out, *prompts.probe]}) == 40
    text = refusal(tmp_path, lines, prompts={"probe": 4})
    assert text.startswith("prompts.probe: 4 leaves none of the 4 held-out")


def test_suites_that_cannot_be_used(tmp_path):
    pq.write_table(pa.table({"q": ["s"]}), tmp_path / "a.parquet")
    lines = ['{"prompt": "a"}'] * 2

    def refused(**suite):
        suites = {"mine": {"source": str(tmp_path / "a.parquet"), **suite}}
        return refusal(tmp_path, lines, evaluation={"suites": suites})

    assert refused().startswith("evaluation.suites.mine.columns.prompt: ")
    assert refused(source="./none").startswith("evaluation.suites.mine.source: ")
    assert refused(columns={"prompt": "q"}, chat=True).startswith("evaluation.suites.mine.chat: ")


def test_own_split_for_evaluation(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for split, count in (("train", 4), ("test", 3)):
        table = pa.Table.from_pylist([{"prompt": f"{split} {i}"} for i in range(count)])
        pq.write_table(table, folder / f"{split}.parquet")
    settings = {"source": str(folder), "eval_split": "test", "probe": 1}
    prompts = load_prompts(
        parse({"prompts": settings, "evaluation": {"prompts": 2}}), tiny_models.tokenizer(), 256
    )
    assert [p.text for p in prompts.train] == [f"train {i}" for i in range(4)]
    assert [p.text for p in prompts.probe] == ["test 0"]
    assert [p.text for p in prompts.held_out] == ["test 1", "test 2"]
    lines = ['{"prompt": "a"}'] * 4
    text = refusal(tmp_path, lines, prompts={"eval_split": "test"})
    assert text.startswith("prompts.eval_split: ")
    assert "no splits" in text
    with pytest.raises(UserError, match="bundled problems have no splits"):
        load_prompts(parse({"prompts": {"eval_split": "test"}}), tiny_models.tokenizer(), 4096)


def test_bundled_prompts_are_mapped_like_any_others():
    settings = {"prompts": {"count": 5, "probe": 2, "prompt_template": "Q {prompt}"}}
    config = parse(settings | {"evaluation": {"prompts": 3}})
    prompts = load_prompts(config, tiny_models.tokenizer(), 4096)
    assert all(p.text.startswith("Q ") for p in prompts.train)
    assert (len(prompts.held_out), len(prompts.probe)) == (3, 2)
    assert prompts.train[0].completion.endswith(prompts.train[0].answer)
