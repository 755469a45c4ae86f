"""Dumps of other trainers: what their lines tell becomes a record, and nothing else does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opd.errors import ErrorKind, UserError
from opd.interchange.formats import format_of, open_rollouts
from opd.types import Rollout
from tests.opd.interchange.test_jsonl import written

Row = dict[str, Any]


def read(path: Path, *lines: Any) -> list[Rollout]:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = open_rollouts(written(path, *lines))
    assert source.format == "trainer" and source.shape
    return list(source.rollouts)


def node(parent: int | None, said: str, ids: list[int], mask: list[bool], **more: Any) -> Row:
    role = "assistant" if any(mask) else "user"
    message = {"role": role, "content": said}
    return {"parent": parent, "message": message, "token_ids": ids, "mask": mask} | more


def trace(*nodes: Row, **more: Any) -> Row:
    task = {"type": "sums", "data": {"prompt": "3+5?", "answer": "8"}}
    run = {"type": "train", "id": "r1", "step": 12}
    return {
        "id": "t",
        "run": run,
        "task": task,
        "nodes": list(nodes),
        "rewards": {"ok": 0.5},
    } | more


PROMPT = node(None, "3+5?", [31, 32], [False, False])
FIRST = node(
    0, "8", [33, 34, 35], [False, True, True], logprobs=[-0.5, -1.5], reference_logprobs=[-2, -3]
)
AGAIN = node(1, "sure?", [36, 37], [False, False])
LAST = node(2, "yes", [38, 39], [True, True], logprobs=[-0.25, -4], reference_logprobs=[-1, -5])


def test_a_trace_of_one_answer(tmp_path: Path) -> None:
    [rollout] = read(tmp_path / "traces.jsonl", trace(PROMPT, FIRST))
    record = rollout.record
    assert rollout.prompt_ids.tolist() == [31, 32, 33], "up to the first sampled token"
    assert record.completion_ids.tolist() == [34, 35]
    assert record.sampler_logprobs is not None and record.teacher_logprobs is not None
    assert record.sampler_logprobs.tolist() == [-0.5, -1.5]
    assert record.teacher_logprobs.tolist() == [-2, -3]
    assert record.student_logprobs is None and record.advantages is None
    assert (rollout.step, rollout.answer, rollout.reward) == (12, "8", 0.5)
    assert (rollout.prompt, rollout.completion) == ("3+5?", "8")


def test_turns_are_joined_and_what_was_not_sampled_is_masked_out(tmp_path: Path) -> None:
    [rollout] = read(tmp_path / "traces.jsonl", trace(PROMPT, FIRST, AGAIN, LAST))
    record = rollout.record
    assert record.completion_ids.tolist() == [34, 35, 36, 37, 38, 39]
    assert record.mask is not None and record.mask.tolist() == [1, 1, 0, 0, 1, 1]
    unknown = np.nan
    expected = np.array([-2, -3, unknown, unknown, -1, -5], np.float32)
    np.testing.assert_array_equal(record.teacher_logprobs, expected)
    assert rollout.completion == "assistant: 8\nuser: sure?\nassistant: yes"


def test_branches_of_an_episode_are_samples_of_its_group(tmp_path: Path) -> None:
    other = node(0, "9", [33, 40], [False, True], logprobs=[-6.0])
    episode = {"id": "e", "group": "g7", "ok": True, "traces": [trace(PROMPT, FIRST, other)]}
    rollouts = read(tmp_path / "traces.jsonl", episode, episode | {"group": "g8"})
    assert [(r.group, r.sample) for r in rollouts] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [r.record.completion_ids.tolist() for r in rollouts[:2]] == [[34, 35], [40]]
    assert rollouts[1].record.teacher_logprobs is None, "its node has none"


def test_a_sum_of_rewards_of_unknown_weights_is_not_made(tmp_path: Path) -> None:
    [rollout] = read(tmp_path / "t.jsonl", trace(PROMPT, FIRST, rewards={"ok": 1.0, "form": 0.5}))
    assert rollout.reward is None
    [rollout] = read(
        tmp_path / "t.jsonl", trace(PROMPT, FIRST, rewards={"a": 1, "b": 2}, reward=0.7)
    )
    assert rollout.reward == 0.7


NEMO: Row = {
    "content": "3+5?8.",
    "rewards": 1.0,
    "token_ids": [31, 32, 33, 34, 0, 0],
    "token_loss_mask": [0, 0, 1, 1, 0, 0],
    "sample_loss_mask": 1.0,
    "advantages": [0, 0, 0.5, 0.5, 0, 0],
    "generation_logprobs": [0, 0, -0.5, -0.25, 0, 0],
    "prev_logprobs": [0, -9, -0.75, -0.125, -3, -3],
    "input_lengths": 4,
    "idx": 0,
}


def test_nemo_rl_has_padding_and_two_kinds_of_log_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "train_data_step7.jsonl"
    [rollout] = read(path, NEMO)
    record = rollout.record
    assert (rollout.step, rollout.reward, rollout.prompt_ids.tolist()) == (7, 1.0, [31, 32])
    assert record.completion_ids.tolist() == [33, 34], "without the padding"
    assert record.sampler_logprobs is not None and record.student_logprobs is not None
    assert record.sampler_logprobs.tolist() == [-0.5, -0.25]
    assert record.student_logprobs.tolist() == [-0.75, -0.125]
    batch = {k: v if k in ("idx", "step") else [v, v] for k, v in NEMO.items()}
    assert [r.group for r in read(path, batch)] == [0, 0], "one prompt"
    turns = NEMO | {"token_loss_mask": [0, 1, 0, 1, 0, 0]}
    [rollout] = read(path, turns)
    assert rollout.record.sampler_logprobs is not None
    assert np.isnan(rollout.record.sampler_logprobs).tolist() == [False, True, False]
    [rollout] = read(path, NEMO | {"sample_loss_mask": 0})
    assert rollout.record.mask is not None and rollout.record.mask.tolist() == [0, 0]


def test_skyrl_has_text_and_scores(tmp_path: Path) -> None:
    line = {"input_prompt": "3+5?", "output_response": "8", "score": [0.0, 0.25, 1.0]}
    path = tmp_path / "global_step_40_evals" / "sums.jsonl"
    chat = [{"role": "user", "content": "3+5?"}]
    rollouts = read(path, line | {"stop_reason": "length"}, line | {"input_prompt": chat})
    assert [r.finish_reason for r in rollouts] == ["length", "stop"]
    assert [r.prompt for r in rollouts] == ["3+5?", "user: 3+5?"]
    assert [(r.completion, r.reward, r.step) for r in rollouts] == [("8", 1.25, 40)] * 2


def test_verl_groups_the_answers_to_a_prompt(tmp_path: Path) -> None:
    line = {"input": "3+5?", "output": "8", "gts": "8", "score": 1.0, "step": 3, "acc": True}
    rollouts = read(tmp_path / "3.jsonl", line, line | {"output": "9", "score": 0.0})
    assert [(r.group, r.sample, r.reward) for r in rollouts] == [(0, 0, 1.0), (0, 1, 0.0)]
    assert {(r.prompt, r.answer, r.step) for r in rollouts} == {("3+5?", "8", 3)}


def test_ms_swift_writes_a_table_a_line(tmp_path: Path) -> None:
    line = {
        "step": ["1", "2"],
        "prompt": ["3+5?", "4+4?"],
        "completion": ["8", "9"],
        "Accuracy": [1.0, 0.0],
        "Format": [0.5, 0.5],
        "advantages": [0.7, -0.7],
    }
    rollouts = read(tmp_path / "completions.jsonl", line)
    assert [(r.step, r.prompt, r.reward) for r in rollouts] == [(1, "3+5?", 1.5), (2, "4+4?", 0.5)]


BOARD: Row = {
    "prompt": "3+5?",
    "response": "8 .",
    "response_tokens": ["8", " .", "<PAD>"],
    "logprobs": [-0.5, -0.25],
    "ref_logprobs": [-1.5, -2.5],
    "reward": 0.5,
    "step": 4,
}


def test_rlloggingboard_has_tokens_as_text(tmp_path: Path) -> None:
    [rollout] = read(tmp_path / "board.jsonl", BOARD)
    assert rollout.completion_tokens == ["8", " ."]
    assert rollout.record.student_logprobs is not None
    assert rollout.record.student_logprobs.tolist() == [-0.5, -0.25]
    assert rollout.record.teacher_logprobs is not None
    assert rollout.record.teacher_logprobs.tolist() == [-1.5, -2.5]
    assert (rollout.step, rollout.reward) == (4, 0.5)


WRONG: list[tuple[list[Any], str]] = [
    ([trace(PROMPT)], "mask: marks no sampled token"),
    ([trace(node(None, "8", [1], [True], logprobs=[-1]))], "ids of the prompt are missing"),
    ([trace(PROMPT, FIRST | {"logprobs": [-1.0]})], r"nodes\[1\].logprobs: has 1 entries for 2"),
    ([trace(PROMPT, FIRST | {"token_ids": None})], r"nodes\[1\].token_ids: must be a list"),
    ([trace(PROMPT, FIRST | {"parent": 1})], r"nodes\[1\].parent: must be null or the index"),
    ([trace(PROMPT, "x")], r"nodes\[1\].parent"),
    (
        [
            trace(
                PROMPT,
                FIRST | {"mask": [False, 2, True], "logprobs": [-1.0], "reference_logprobs": None},
            )
        ],
        "mask: must hold 0 and 1",
    ),
    (
        [trace(PROMPT, FIRST | {"logprobs": [-1.0, None]})],
        r"sampler_logprobs\[1\]: must be a finite",
    ),
    ([{"traces": [3]}], r"traces\[0\]: must be an object"),
    ([NEMO | {"token_loss_mask": [0, 1]}], "token_loss_mask: has 2 entries for 6"),
    ([NEMO | {"input_lengths": 9}], "input_lengths: must be 1 to 6"),
    ([NEMO | {"token_ids": [[1], 2]}], "token_loss_mask: has 6 entries for 2 samples"),
    ([NEMO | {"token_ids": [[], 2, 3, 4, 5, 6]}], r"input_lengths: must be|must be a list"),
    ([NEMO, {"content": "x"}], "line 2, token_ids: is missing or of another form"),
    ([{"content": "x", "input_lengths": 4, "idx": 0}], "log of a distillation"),
    ([{"content": "x", "rewards": 1.0}], "log of a validation"),
    ([{"input_prompt": "a", "output_response": "b", "score": ["x"]}], "score: must hold finite"),
    (
        [{"input_prompt": "a", "output_response": "b", "stop_reason": "abort"}],
        "finish_reason: must",
    ),
    ([BOARD | {"response_tokens": ["8"]}], "logprobs: has 2 entries for 1 tokens"),
    ([BOARD | {"response_tokens": ["8", ".", "9"]}], "logprobs: has 2 entries for 3 tokens"),
    ([{"logprobs": [[[-0.5]]], "logprob_token_ids": [[[8]]]}], "TRL's teacher server"),
    ([{"logprobs_b64": "AAAA", "shape": [1, 1, 1]}], "TRL's teacher server"),
    ([{"traj_idx": 0, "steps": [{"ob_len": 3, "ac_len": 2}]}], "no tokens"),
]


@pytest.mark.parametrize(("lines", "message"), WRONG, ids=range(len(WRONG)))
def test_what_cannot_be_taken_is_named(tmp_path: Path, lines: list[Any], message: str) -> None:
    path = written(tmp_path / "in.jsonl", *lines)
    with pytest.raises(UserError, match=message) as caught:
        list(open_rollouts(path).rollouts)
    assert f"in.jsonl, line {len(lines)}" in caught.value.where


@pytest.mark.parametrize(
    ("start", "kind", "message"),
    [
        (b"PK\x03\x04rest", ErrorKind.REFUSED_DATA, "torch.save.*can run code"),
        (b"\x80\x04rest", ErrorKind.REFUSED_DATA, "pickle"),
        (b"\x1f\x8brest", ErrorKind.BAD_DATA, "gzip: decompress it first"),
        (b"ARROW1\0\0", ErrorKind.BAD_DATA, "Arrow file: write it as Parquet"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    tmp_path: Path, start: bytes, kind: ErrorKind, message: str
) -> None:
    path = tmp_path / "0.pt"
    path.write_bytes(start)
    with pytest.raises(UserError, match=message) as caught:
        open_rollouts(path)
    assert caught.value.kind == kind


def test_our_own_lines_are_of_no_other_trainer(tmp_path: Path) -> None:
    ours = {"prompt": "a", "completion": "b", "step": 1, "reward": 1.0}
    assert format_of(written(tmp_path / "a.jsonl", ours)) == "rollouts"
    with pytest.raises(UserError, match=r"is no dump of prime-rl"):
        open_rollouts(tmp_path / "a.jsonl", "trainer")
    marked = tmp_path / "b.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + json.dumps(ours).encode())
    assert [r.completion for r in open_rollouts(marked).rollouts] == ["b"]
