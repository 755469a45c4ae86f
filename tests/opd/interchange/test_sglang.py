"""SGLang's answers are read as vLLM's: ids, log-probabilities and alternatives by position."""

from pathlib import Path
from typing import Any

import pytest

from opd.errors import UserError
from opd.interchange.formats import open_rollouts
from tests.opd.interchange.test_jsonl import written

META: dict[str, Any] = {
    "prompt_tokens": 4,
    "input_token_logprobs": [[None, 21, "a"], [-2.5, 22, "b"], [-0.5, 23, "c"], [-3.0, 24, "d"]],
    "input_top_logprobs": [None, [[-0.1, 9, "x"]], [[-0.5, 23, "c"]], [[-0.25, 8, "y"]]],
    "finish_reason": {"type": "length"},
}
LINE: dict[str, Any] = {"text": "z", "prompt_length": 2, "meta_info": META}


def test_the_teachers_figures(tmp_path: Path) -> None:
    source = open_rollouts(written(tmp_path / "in.jsonl", LINE))
    [rollout] = source.rollouts
    record = rollout.record
    assert (source.format, rollout.prompt_ids.tolist()) == ("vllm", [21, 22])
    assert record.completion_ids.tolist() == [23, 24]
    assert record.teacher_logprobs is not None and record.teacher_topk is not None
    assert record.teacher_logprobs.tolist() == [-0.5, -3.0]
    assert record.teacher_topk.ids.tolist() == [[23], [8]]
    assert record.teacher_rank is None, "of a token beside the likeliest it is not known"
    assert (rollout.completion, rollout.finish_reason) == ("cd", "stop")


def test_a_pair_with_a_teacher_of_sglang(tmp_path: Path) -> None:
    student = {"choices": [{"prompt_token_ids": [21, 22], "token_ids": [23, 24], "text": "cd"}]}
    line = {"student": student, "teacher": {"meta_info": META}}
    [rollout] = open_rollouts(written(tmp_path / "in.jsonl", line)).rollouts
    assert rollout.record.teacher_logprobs is not None
    assert rollout.record.teacher_logprobs.tolist() == [-0.5, -3.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_token_logprobs": None}, "input_token_logprobs: is missing"),
        ({"prompt_tokens": 9}, "has 4 of 9 tokens: ask with logprob_start_len 0"),
        ({"input_token_logprobs": [[None, 21]] * 4}, r"\[0\]: must be \[logprob, id, text\]"),
        ({"input_top_logprobs": [None]}, "one entry for each of 4 tokens"),
        ({"input_top_logprobs": [None, [3], [], []]}, r"input_top_logprobs\[1\]"),
    ],
)
def test_what_cannot_be_taken_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = written(tmp_path / "in.jsonl", LINE | {"meta_info": META | change})
    with pytest.raises(UserError, match=message):
        list(open_rollouts(path).rollouts)


def test_minus_infinity_is_vllms_floor_and_said(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"prompt_length": 1, "prompt_token_ids": [5, 6], "prompt_logprobs": [null, '
        '{"6": {"logprob": -Infinity, "rank": null}, "7": {"logprob": -0.5, "rank": 1}}]}'
    )
    source = open_rollouts(path)
    [rollout] = source.rollouts
    assert rollout.record.teacher_logprobs is not None
    assert rollout.record.teacher_logprobs.tolist() == [-9999.0]
    [(text, times)] = source.changes.items()
    assert "-9999" in text and times == 1
    path.write_text(path.read_text().replace("-0.5", "NaN"))
    with pytest.raises(UserError, match=r"line 1.*: not valid JSON|must be a finite number"):
        list(open_rollouts(path).rollouts)


def test_an_echo_is_said_to_be_one(tmp_path: Path) -> None:
    logprobs = {"tokens": ["a", "b"], "token_logprobs": [None, -0.5], "text_offset": [0, 1]}
    line = {"prompt_length": 1, "choices": [{"text": "ab", "logprobs": logprobs}]}
    with pytest.raises(UserError, match="is missing: this is an echo"):
        list(open_rollouts(written(tmp_path / "in.jsonl", line)).rollouts)
