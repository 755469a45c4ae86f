"""Files of other programs: vLLM's answers, TRL's tables, our own as Parquet."""

import json
import math
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from opd.errors import UserError
from opd.interchange.formats import FORMATS, format_of, open_rollouts
from opd.interchange.jsonl import to_row
from opd.interchange.parquet import write_parquet
from opd.types import Rollout
from tests.opd.interchange.test_jsonl import LINE, written

DOCS = Path(__file__).parents[3] / "docs"
EXAMPLES = DOCS / "examples"
Run = Callable[..., tuple[int, str, str]]


def entry(*tokens: tuple[int, float, int | None]) -> dict[str, Any]:
    """An entry of `prompt_logprobs`: id, log-probability, rank from 1."""
    return {
        str(i): {"logprob": value, "rank": rank, "decoded_token": f" w{i}"}
        for i, value, rank in tokens
    }


PROMPT, COMPLETION = [5, 6], [7, 8, 9]
SCORED: list[Any] = [
    None,
    entry((6, -3.0, 40), (1, -0.5, 1), (2, -1.5, 2)),
    entry((7, -0.25, 1), (3, -2.0, 2)),  # the token is among the likeliest
    entry((8, -9.0, 512), (3, -0.5, 1), (4, -2.0, 2)),  # it stands beside them
    entry((9, -2.0, 2), (1, -0.5, 1)),
]
TEACHER: dict[str, Any] = {"prompt_token_ids": PROMPT + COMPLETION, "prompt_logprobs": SCORED}
CHOICES: dict[str, Any] = {"object": "text_completion", "choices": [{"index": 0, **TEACHER}]}
GENERATED: dict[str, Any] = {
    "choices": [
        {
            "text": " w7 w8 w9",
            "finish_reason": "length",
            "prompt_token_ids": PROMPT,
            "token_ids": COMPLETION,
            "logprobs": {
                "tokens": ["token_id:7", "token_id:8", " w9"],
                "token_logprobs": [-0.5, -1.0, -1.5],
            },
        }
    ]
}


def read(tmp_path: Path, *lines: Any, **options: Any) -> list[Rollout]:
    return list(open_rollouts(written(tmp_path / "in.jsonl", *lines), **options).rollouts)


def test_the_teachers_figures_start_where_the_completion_does(tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", {**CHOICES, "prompt_length": 2, "step": 7})
    source = open_rollouts(path)
    [rollout] = source.rollouts
    record = rollout.record
    assert source.format == "vllm"
    assert (rollout.step, rollout.prompt_ids.tolist()) == (7, PROMPT)
    assert record.completion_ids.tolist() == COMPLETION
    assert record.teacher_logprobs is not None and record.teacher_rank is not None
    assert record.teacher_logprobs.tolist() == [-0.25, -9.0, -2.0]
    assert record.teacher_rank.tolist() == [0, 511, 1]  # vLLM counts from 1
    top = record.teacher_topk
    assert top is not None
    assert top.ids.tolist() == [[7, 3], [3, 4], [1, 9]]  # likeliest first, without the token beside
    expected = [1 - sum(map(math.exp, v)) for v in ([-0.25, -2], [-0.5, -2], [-0.5, -2])]
    np.testing.assert_allclose(top.tail_mass, expected, atol=1e-6)
    assert rollout.completion_tokens == [" w7", " w8", " w9"]
    assert rollout.completion == " w7 w8 w9"
    assert (record.student_logprobs, record.reverse_kl) == (None, None)
    assert source.vocabulary([3, 4, 999]) == {3: (b" w3", False), 4: (b" w4", False)}


def test_a_pair_has_the_students_own_figures(tmp_path: Path) -> None:
    [rollout] = read(tmp_path, {"student": GENERATED, "teacher": CHOICES, "reward": 1})
    assert rollout.prompt_ids.tolist() == PROMPT  # where the student's prompt ends
    assert rollout.record.student_logprobs is not None
    assert rollout.record.student_logprobs.tolist() == [-0.5, -1.0, -1.5]
    assert (rollout.finish_reason, rollout.reward) == ("length", 1)


def test_a_student_that_scored_the_whole_gives_its_alternatives(tmp_path: Path) -> None:
    whole = [None, *(entry((i, -1.0, 1), (50 + i, -2.0, 2)) for i in (6, 7, 8, 9))]
    choice = {**GENERATED["choices"][0], "prompt_logprobs": whole}
    [rollout] = read(tmp_path, {"student": {"choices": [choice]}, "teacher": TEACHER})
    record = rollout.record
    assert record.student_logprobs is not None and record.student_topk is not None
    assert record.student_logprobs.tolist() == [-1, -1, -1]
    assert record.student_topk.ids.tolist() == [[7, 57], [8, 58], [9, 59]]
    assert record.sampler_logprobs is not None  # as it was sampled
    assert record.sampler_logprobs.tolist() == [-0.5, -1.0, -1.5]


def test_chat_answers_keep_the_prompt_beside_the_choices(tmp_path: Path) -> None:
    content = [{"token": f"token_id:{i}", "logprob": -0.5} for i in COMPLETION]
    message = {"role": "assistant", "content": "said"}
    choice = {"message": message, "token_ids": COMPLETION, "logprobs": {"content": content}}
    student = {"prompt_token_ids": PROMPT, "choices": [{**choice, "finish_reason": "stop"}]}
    teacher = {**TEACHER, "choices": [{"message": message}]}
    [rollout] = read(tmp_path, {"student": student, "teacher": teacher})
    assert rollout.completion == "said"
    assert rollout.record.student_logprobs is not None
    assert rollout.record.student_logprobs.tolist() == [-0.5] * 3


def test_one_document_several_choices_and_a_length_for_all(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"choices": [TEACHER, TEACHER]}, indent=1))
    first, second = open_rollouts(path, prompt_tokens=3).rollouts
    assert len(first.prompt_ids) == 3 and (first.sample, second.sample) == (0, 1)
    path.write_text(json.dumps([{**TEACHER, "prompt_length": 2}] * 2))
    assert [r.group for r in open_rollouts(path).rollouts] == [0, 1]
    path.write_text(json.dumps({"choices": [TEACHER] * 2, "prompt_length": [2, 4]}))
    assert [len(r.prompt_ids) for r in open_rollouts(path).rollouts] == [2, 4]


def test_no_rank_and_no_alternatives_are_left_empty(tmp_path: Path) -> None:
    bare = [None, *(entry((i, -1.0, None)) for i in (6, 7, 8, 9))]
    [rollout] = read(tmp_path, {**TEACHER, "prompt_logprobs": bare, "prompt_length": 2})
    assert rollout.record.teacher_rank is None and rollout.record.teacher_topk is None


def test_an_untold_prompt_is_no_text_of_its_first_token(tmp_path: Path) -> None:
    """An answer that gives ids and no texts."""
    bare = [
        entry and {i: {"logprob": e["logprob"], "rank": e["rank"]} for i, e in entry.items()}
        for entry in SCORED
    ]
    line = {**TEACHER, "prompt_logprobs": bare, "prompt_length": 2, "prompt": "a whole question"}
    source = open_rollouts(written(tmp_path / "in.jsonl", line))
    [rollout] = source.rollouts
    assert rollout.prompt == "a whole question" and source.texts == {}


def changed(at: int, value: Any) -> dict[str, Any]:
    entries = [*SCORED[:at], value, *SCORED[at + 1 :]]
    return {**TEACHER, "prompt_length": 2, "prompt_logprobs": entries}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (TEACHER, "prompt_length: is missing: say at which token"),
        ({**TEACHER, "prompt_length": 10**9}, "prompt_length: must be 1 to 4, as 5 tokens"),
        ({**TEACHER, "prompt_length": 0}, "prompt_length: must be 1 to 4"),
        ({**TEACHER, "prompt_length": True}, "prompt_length: must be 1 to 4"),
        ({"prompt_logprobs": SCORED, "prompt_length": 2}, "prompt_token_ids: is missing"),
        ({**TEACHER, "prompt_token_ids": "5"}, "prompt_token_ids: must be a list of token ids"),
        ({**TEACHER, "prompt_token_ids": [2**31]}, "prompt_token_ids[0]: must be a whole number"),
        (
            {**TEACHER, "prompt_token_ids": [5, 6, 7], "prompt_length": 2},
            "prompt_logprobs: has 5 entries for 3 tokens",
        ),
        (
            {**TEACHER, "prompt_logprobs": 5, "prompt_length": 2},
            "prompt_logprobs: must be a list with one entry per token (got 5)",
        ),
        (changed(3, None), "prompt_logprobs[3]: must be an object of token ids (got None)"),
        (changed(3, entry((1, -1, 1))), "prompt_logprobs[3]: has no entry of token 8"),
        (changed(3, {"x": {}}), "prompt_logprobs[3]: must be by token id"),
        (changed(3, {"9" * 5000: {}}), "prompt_logprobs[3]: must be by token id"),
        (changed(3, {"8": 1}), "prompt_logprobs[3].8: must be an object (got 1)"),
        (changed(3, entry((8, 0.5, 1))), "prompt_logprobs[3].8.logprob: must be a number of at"),
        (changed(3, entry((8, 1e300, 1))), "prompt_logprobs[3].8.logprob: must be a number"),
        (changed(3, entry((8, -1, 0))), "prompt_logprobs[3].8.rank: must be 1 to"),
        (changed(3, entry((8, -1, 10**12))), "prompt_logprobs[3].8.rank: must be 1 to"),
        ({"choices": [], "prompt_length": 2}, "teacher.choices: must be a list of choices"),
        ({"choices": [5], "prompt_length": 2}, "teacher.choices[0]: must be an object (got 5)"),
        ({"teacher": 5}, "teacher: must be an answer, a JSON object (got 5)"),
        (
            {"teacher": {"choices": [TEACHER] * 2}, "student": GENERATED},
            "student: has 1 choices where teacher has 2",
        ),
        (
            {"teacher": {**TEACHER, "prompt_token_ids": [5, 6, 7, 8, 1]}, "student": GENERATED},
            "teacher.prompt_token_ids: are not the student's prompt and completion",
        ),
        (
            {"teacher": {**TEACHER, "prompt_logprobs": SCORED[:3]}, "student": GENERATED},
            "teacher.prompt_logprobs: has 3 entries for 5 tokens",
        ),
        ({**TEACHER, "prompt_length": 2, "reward": "x"}, "reward: must be a finite number"),
    ],
)
def test_an_answer_that_cannot_be_taken_is_named(
    tmp_path: Path, line: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, {**TEACHER, "prompt_length": 2}, line)
    assert f"in.jsonl, line 2, {message}" in str(caught.value)


def table(path: Path, **columns: list[Any]) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_a_table_of_trl_is_text_with_its_rewards(tmp_path: Path) -> None:
    path = table(
        tmp_path / "completions.parquet",
        step=[10, 10, 10, 20],
        prompt=["a", "b", "a", "a"],
        completion=["x", "y", "z", "w"],
        accuracy=[1.0, 0.0, math.nan, None],
        length_penalty=[-0.5, 0.0, 0.25, None],
        advantage=[9.0, 9.0, 9.0, 9.0],
        note=["n"] * 4,
    )
    source = open_rollouts(path)
    rollouts = list(source.rollouts)
    assert (source.format, source.rewards) == ("trl", ("accuracy", "length_penalty"))
    assert [r.reward for r in rollouts] == [0.5, 0.0, 0.25, None]
    assert [(r.step, r.group, r.sample) for r in rollouts] == [
        (10, 0, 0),
        (10, 1, 0),
        (10, 0, 1),
        (20, 0, 0),
    ]
    assert [r.completion for r in rollouts] == ["x", "y", "z", "w"]
    assert all(len(r.record) == 0 for r in rollouts)


def test_trl_writes_such_tables_by_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    chat = [{"role": "user", "content": "2+2?"}]
    parts = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "see"}]}]
    said = [{"role": "assistant", "content": "4"}]
    for prompt in (chat, parts):
        frame = pandas.DataFrame({"step": [1], "prompt": [prompt], "completion": [said]})
        frame.to_parquet(tmp_path / "c.parquet")
        [rollout] = open_rollouts(tmp_path / "c.parquet").rollouts
        assert rollout.completion == "4"
        assert rollout.prompt in ("user: 2+2?", "user: see")


def test_a_reward_column_is_the_reward(tmp_path: Path) -> None:
    path = table(
        tmp_path / "c.parquet", prompt=["a"], completion=["b"], reward=[0.5], accuracy=[1.0]
    )
    assert [r.reward for r in open_rollouts(path).rollouts] == [0.5]


def test_chats_are_rendered_by_whom_is_asked(tmp_path: Path) -> None:
    path = table(
        tmp_path / "c.parquet", prompt=[[{"role": "user", "content": "hi"}]], completion=["b"]
    )
    [rollout] = open_rollouts(path, chat=lambda m: (f"<{m[0]['content']}>", [1, 2])).rollouts
    assert (rollout.prompt, rollout.prompt_ids.tolist()) == ("<hi>", [1, 2])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": [1], "completion": ["a"]}, "row 1, prompt: must be text or a list"),
        ({"prompt": ["a"], "completion": [1.5]}, "row 1, completion: must be text or a list"),
        ({"prompt": ["a"], "completion": [None]}, "row 1, completion: must be text or a list"),
        ({"prompt": ["a"], "completion": [""]}, "row 1, completion_token_ids: is missing"),
        ({"prompt": [["a"]], "completion": ["a"]}, "row 1, prompt[0]: must be a message"),
        ({"prompt": ["a"], "completion": ["b"], "step": [-1]}, "row 1, step: must be a whole"),
        ({"prompt": ["a"], "completion": ["b"], "r": [math.inf]}, "row 1, reward: must be a"),
        (
            {"prompt": ["a"], "completion": ["b"], "q": [1.0], "r": [math.inf]},
            "row 1, reward: must be a",
        ),
        ({"prompt": ["a"]}, "completion_token_ids: is missing or empty"),
    ],
)
def test_a_table_that_cannot_be_taken_is_named(
    tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    path = table(tmp_path / "c.parquet", **columns)
    with pytest.raises(UserError) as caught:
        list(open_rollouts(path).rollouts)
    assert message in str(caught.value)


def test_our_own_parquet_comes_back(tmp_path: Path) -> None:
    line = {**LINE, "token_texts": [[3, " three"], [4, " four"]]}
    write_parquet(tmp_path / "x.parquet", [line, {**LINE, "teacher_topk": None}])
    source = open_rollouts(tmp_path / "x.parquet")
    first, second = source.rollouts
    assert source.format == "rollouts"
    assert to_row(first, "run-1") == LINE
    assert to_row(second, "run-1")["teacher_topk"] is None
    assert source.vocabulary([3]) == {3: (b" three", False)}


@pytest.mark.parametrize("texts", [5, [5], [[1]], [["1", "a"]], [[-1, "a"]], [[1, 2]]])
def test_texts_of_alternatives_are_checked(tmp_path: Path, texts: Any) -> None:
    with pytest.raises(UserError, match="line 1, token_texts"):
        read(tmp_path, {**LINE, "token_texts": texts})


def test_the_form_is_seen(tmp_path: Path) -> None:
    assert [format_of(EXAMPLES / name) for name in ("rollouts.jsonl", "vllm.jsonl")] == [
        "rollouts",
        "vllm",
    ]
    assert format_of(EXAMPLES / "completions.parquet") == "trl"
    with pytest.raises(UserError, match="--format: must be one of auto, rollouts, vllm, trl"):
        open_rollouts(EXAMPLES / "vllm.jsonl", "csv")
    assert set(FORMATS) == {"auto", "rollouts", "vllm", "trl", "trainer"}


def hostile_files(folder: Path) -> dict[str, bytes]:
    table(folder / "whole.parquet", prompt=["a"] * 50, completion=["b"] * 50)
    whole = (folder / "whole.parquet").read_bytes()
    return {
        "empty": b"",
        "spaces": b"\n \n\n",
        "zeros": bytes(1000),
        "truncated.parquet": whole[: len(whole) // 2],
        "magic.parquet": b"PAR1",
        "flipped.parquet": whole[:40] + bytes(60) + whole[100:],
        "deep": b"[" * 200_000,
        "deep-line": b'{"prompt_logprobs":' * 50_000,
        "nan": b'{"prompt_logprobs":[null,{"1":{"logprob":NaN}}]}',
        "number": b'{"choices": 1e999}',
        "utf8": b'{"prompt": "\xff\xfe", "completion": "a"}',
        "list": b"[1, 2, 3]",
        "huge-rank": json.dumps(changed(3, entry((8, -1, 10**30)))).encode(),
        "huge-int": b'{"choices": [{"prompt_token_ids": [' + b"9" * 5000 + b"]}]}",
        "half-a-line": json.dumps({**LINE}).encode()[:-20],
    }


NAMES = (
    *("empty", "spaces", "zeros", "truncated.parquet", "magic.parquet", "flipped.parquet"),
    *("deep", "deep-line", "nan", "number", "utf8", "list", "huge-rank", "huge-int"),
    "half-a-line",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", FORMATS)
def test_hostile_files_are_one_line(opd: Run, tmp_path: Path, name: str, form: str) -> None:
    path = tmp_path / name
    path.write_bytes(hostile_files(tmp_path)[name])
    code, out, err = opd("import", str(path), "--name", "x", "--format", form)
    assert (code, out) == (2, ""), err
    assert err.startswith(f"Error: {path}") and err.count("\n") == 1, err
    assert len(err) < 1000
    assert json.loads(opd("runs", "--json")[1])["total"] == 0


def test_a_folder_is_named(opd: Run, tmp_path: Path) -> None:
    code, _, err = opd("import", str(tmp_path), "--name", "x")
    assert (code, err) == (2, f"Error: {tmp_path}: is a folder; name a file\n")


def commands() -> list[list[str]]:
    page = (DOCS / "formats" / "import.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n((?:opd .*\n)+)```", page, re.MULTILINE)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def test_the_documented_commands_work_as_written(
    opd: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path / "examples")
    runs = {}
    for arguments in commands():
        code, out, err = opd(*arguments)
        assert code == 0, (arguments, err)
        if arguments[0] == "import":
            runs[arguments[1]] = out.split()[0]
    assert set(runs) == {"rollouts.jsonl", "vllm.jsonl", "completions.parquet", "scored.jsonl"}
    assert opd("export", runs["completions.parquet"], "--out", "text.jsonl")[0] == 0
    texts = [json.loads(line) for line in Path("text.jsonl").read_text().splitlines()]
    scored = [json.loads(line) for line in Path("scored.jsonl").read_text().splitlines()]
    kept = ("step", "group", "prompt", "completion", "reward")
    assert [[t[k] for k in kept] for t in texts] == [[s[k] for k in kept] for s in scored]
    assert all(s["teacher_logprobs"] for s in scored)
    models = ("--student", "bundled/student", "--teacher", "bundled/teacher")
    assert opd("score", *models, "--rollouts", "text.jsonl", "--out", "again.jsonl")[0] == 0
    again = [json.loads(line) for line in Path("again.jsonl").read_text().splitlines()]
    assert again == scored
    check_vllm_against_scores(opd, runs)


def check_vllm_against_scores(opd: Run, runs: dict[str, str]) -> None:
    """The same tokens scored by a server's formula and by `opd score` have the same figures."""
    opd("export", runs["vllm.jsonl"], "--out", "vllm-out.jsonl")
    given = [json.loads(line) for line in Path("vllm-out.jsonl").read_text().splitlines()]
    scored = [json.loads(line) for line in Path("scored.jsonl").read_text().splitlines()]
    assert len(given) == 3
    for ours, theirs in zip(scored, given, strict=False):
        assert ours["completion_token_ids"] == theirs["completion_token_ids"]
        assert ours["prompt"] == theirs["prompt"]
        assert ours["teacher_rank"] == theirs["teacher_rank"]
        np.testing.assert_allclose(
            ours["teacher_logprobs"], theirs["teacher_logprobs"], atol=2e-4, rtol=1e-4
        )
        top = [pairs[0][0] for pairs in ours["teacher_topk"]]
        assert top == [pairs[0][0] for pairs in theirs["teacher_topk"]]


def test_alternatives_keep_their_texts_through_export(opd: Run, tmp_path: Path) -> None:
    path = written(tmp_path / "in.jsonl", {**TEACHER, "prompt_length": 2})
    run_id = opd("import", str(path), "--name", "x")[1].split()[0]
    for ending in ("jsonl", "parquet"):
        out = tmp_path / f"out.{ending}"
        assert opd("export", run_id, "--out", str(out))[0] == 0
        source = open_rollouts(out)
        [rollout] = source.rollouts
        assert rollout.completion_tokens == [" w7", " w8", " w9"]
        assert {i: t.decode() for i, (t, _) in source.vocabulary([1, 3, 4]).items()} == {
            i: f" w{i}" for i in (1, 3, 4)
        }


def test_parts_of_characters_and_masked_unknowns_come_back(opd: Run, tmp_path: Path) -> None:
    """Of one id, an alternative's bytes and a completion's half of a character."""
    e, tops = "é".encode(), [[[11, -0.5], [12, -1.5]], [[12, -0.5], [13, -2]]]
    line = {
        "prompt_token_ids": [3],
        "completion_token_ids": [11, 12, 11, 14],
        "completion_tokens": ["", "é", "", "\ufffdat"],
        "teacher_topk": [tops[0], tops[1], tops[0], tops[1]],
        "token_texts": [[13, "x"]],
        "token_bytes": [[11, e[:1].hex()], [12, e[1:].hex()], [14, b"at".hex()]],
        "mask": [1, 0, 1, 1],
        "sampler_logprobs": [-0.5, None, -0.25, -1],
    }
    path = written(tmp_path / "in.jsonl", line)
    exported = []
    for ending in ("jsonl", "parquet", "jsonl"):
        run_id = opd("import", str(path), "--name", "x")[1].split()[0]
        path = tmp_path / f"out-{len(exported)}.{ending}"
        assert opd("export", run_id, "--out", str(path))[0] == 0
        [rollout] = open_rollouts(path).rollouts
        exported.append(json.dumps(to_row(rollout), default=str))
        assert rollout.completion_tokens == line["completion_tokens"]
        assert open_rollouts(path).format == "rollouts"
        source = open_rollouts(path)
        list(source.rollouts)
        tokens = {i: data for i, (data, _) in source.vocabulary([11, 12, 13, 14]).items()}
        assert tokens == {11: e[:1], 12: e[1:], 13: b"x", 14: b"at"}
    assert len(set(exported)) == 1 and '"sampler_logprobs": [-0.5, NaN, -0.25, -1.0]' in exported[0]
