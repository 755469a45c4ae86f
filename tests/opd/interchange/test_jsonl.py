import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opd.errors import UserError
from opd.interchange.jsonl import (
    MAX_ID,
    OWN_IDS,
    json_lines,
    rollouts_of,
    to_row,
    write_line,
)
from opd.interchange.parquet import read_parquet, write_parquet
from opd.types import Rollout

LINE: dict[str, Any] = {
    "run_id": "run-1",
    "step": 3,
    "kind": "eval",
    "group": 2,
    "sample": 1,
    "prompt": "1 + 1 =",
    "completion": "2.",
    "prompt_token_ids": [5, 6],
    "completion_token_ids": [7, 8, 1],
    "finish_reason": "length",
    "reward": 1.0,
    "sampler_logprobs": [-0.5, -1.5, 0.0],
    "student_logprobs": [-0.25, -1.0, -0.125],
    "teacher_logprobs": [-0.5, -2.0, -0.25],
    "reverse_kl": [0.5, 0.25, 0.0],
    "student_entropy": [1.0, 0.5, 0.25],
    "teacher_entropy": [1.5, 0.5, 0.125],
    "teacher_rank": [0, 4, 1],
    "advantages": [0.25, -1.0, 0.5],
    "mask": [1.0, 0.5, 0.0],
    "student_topk": [[[7, -0.25], [3, -2.0]], [[8, -1.0], [7, -2.0]], [[1, -0.125], [2, -3.0]]],
    "teacher_topk": [[[3, -0.5], [7, -1.0]], [[8, -2.0], [4, -2.5]], [[9, -0.25], [8, -3.0]]],
    "temperature": 0.5,
    "author": "teacher",
    "answer": "2",
    "data_row": {"hint": "count", "messages": [{"role": "user", "content": "1 + 1 ="}]},
    "marks": [{"position": None, "note": "short"}, {"position": 2, "note": "<b>\nno end"}],
}


def written(path: Path, *lines: Any) -> Path:
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_text(text, encoding="utf-8")
    return path


def read_rollouts(path: Path) -> Iterator[Rollout]:
    return rollouts_of(json_lines(path), str(path))


def read(tmp_path: Path, *lines: Any) -> list[Rollout]:
    return list(read_rollouts(written(tmp_path / "in.jsonl", *lines)))


def test_a_line_comes_back_as_it_was(tmp_path: Path) -> None:
    [rollout] = read(tmp_path, LINE)
    assert to_row(rollout, "run-1") == LINE
    assert list(to_row(rollout, "run-1")) == list(LINE)
    with (tmp_path / "out.jsonl").open("wb") as file:
        write_line(file, to_row(rollout, "run-1"))
    assert [to_row(r, "run-1") for r in read_rollouts(tmp_path / "out.jsonl")] == [LINE]


def test_the_other_models_opinion_is_known_where_it_lists_the_id(tmp_path: Path) -> None:
    [rollout] = read(tmp_path, LINE)
    top = rollout.record.student_topk
    assert top is not None
    np.testing.assert_array_equal(
        top.other_logprobs, np.array([[-1.0, -0.5], [-2.0, np.nan], [np.nan, np.nan]], np.float32)
    )
    assert top.tail_mass[0] == pytest.approx(1 - math.exp(-0.25) - math.exp(-2.0), abs=1e-6)


def test_little_is_needed(tmp_path: Path) -> None:
    ids, text, texts = read(
        tmp_path,
        {"prompt_token_ids": [1], "completion_token_ids": [2, 3]},
        "",
        {"prompt": "a", "completion": "b c"},
        {"prompt_tokens": ["x"], "completion_tokens": ["y", "x", "y"], "mask": [True, False, True]},
    )
    assert (len(ids.record), ids.kind, ids.temperature, ids.group) == (2, "import", 1.0, 0)
    assert ids.record.reverse_kl is None
    assert (len(text.record), text.completion, text.group) == (0, "b c", 2)
    assert texts.record.completion_ids.tolist() == [OWN_IDS + 1, OWN_IDS, OWN_IDS + 1]
    assert texts.completion == "yxy"
    assert texts.completion_tokens == ["y", "x", "y"]
    assert texts.record.mask is not None and texts.record.mask.tolist() == [1, 0, 1]


def test_the_same_place_twice_gets_another_sample_number(tmp_path: Path) -> None:
    assert [r.sample for r in read(tmp_path, LINE, LINE, {**LINE, "group": 3})] == [1, 2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, f"step: must be a whole number from 0 to {MAX_ID} (got -1)"),
        ({"marks": {}}, "marks: must be a list (got {})"),
        ({"marks": [5]}, 'marks[0]: must be {"position", "note"} (got 5)'),
        ({"marks": [{"note": 5}]}, "marks[0]: must be"),
        ({"marks": [{"position": 3}]}, "marks[0].position: must be null or 0 to 2 (got 3)"),
        ({"marks": [{"position": True}]}, "marks[0].position: must be null or 0 to 2"),
        ({"marks": [{}, {"position": None}]}, "marks[1].position: has a mark already (got None)"),
        ({"marks": [{"note": "a\x1b"}]}, "marks[0].note: must not hold control characters"),
        ({"marks": [{"note": "n" * 2001}]}, "marks[0].note: must have at most 2000 characters"),
        ({"data_row": [1]}, "data_row: must be an object (got [1])"),
        ({"step": 1.5}, "step: must be a whole number"),
        ({"group": True}, "group: must be a whole number"),
        ({"kind": "x"}, "kind: must be one of train, eval, probe, branch, import (got 'x')"),
        ({"kind": ["x"]}, "kind: must be one of"),
        ({"finish_reason": None}, "finish_reason: must be one of stop, length (got None)"),
        ({"prompt": 5}, "prompt: must be text (got 5)"),
        ({"reward": "good"}, "reward: must be a finite number (got 'good')"),
        ({"reward": 1e300}, "reward: must be a finite number (got 1e+300)"),
        ({"temperature": -1}, "temperature: must be a finite number ≥ 0 (got -1)"),
        ({"completion_token_ids": 5}, "completion_token_ids: must be a list (got 5)"),
        ({"completion_token_ids": [7, -8, 1]}, "completion_token_ids[1]: must be a whole number"),
        ({"completion_token_ids": [7, 8.0, 1]}, "completion_token_ids[1]: must be a whole number"),
        (
            {"completion_token_ids": [7, 2**40, 1]},
            "completion_token_ids[1]: must be a whole number",
        ),
        ({"reverse_kl": [0.5]}, "reverse_kl: has 1 entries where completion_token_ids has 3"),
        ({"reverse_kl": [0.5, None, 1]}, "reverse_kl[1]: must be a finite number (got None)"),
        ({"reverse_kl": [0.5, "1", 1]}, "reverse_kl[1]: must be a finite number (got '1')"),
        ({"reverse_kl": [0.5, True, 1]}, "reverse_kl[1]: must be a finite number (got True)"),
        ({"mask": [1, 0, 1e39]}, "mask[2]: must be a finite number (got 1e+39)"),
        ({"prompt_tokens": ["a"]}, "prompt_tokens: has 1 entries where prompt_token_ids has 2"),
        ({"completion_tokens": ["a", 1, "b"]}, "completion_tokens[1]: must be text (got 1)"),
        ({"student_topk": [[[1, -1.0]], [], []]}, "student_topk[1]: must be a list of 1 pairs"),
        ({"teacher_topk": [None, None, None]}, "teacher_topk[0]: must be a list of pairs"),
        ({"student_topk": [[[1]], [[1]], [[1]]]}, "student_topk[0]: must hold [id, logprob]"),
        (
            {"completion_token_ids": [], "completion": ""},
            "completion_token_ids: is missing or empty",
        ),
    ],
)
def test_what_cannot_be_taken_is_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, LINE, {**LINE, **change})
    assert f"in.jsonl, line 2, {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: not valid JSON"),
        ("[1]", "line 1: must be a JSON object, one a line (got [1])"),
        ('{"reward": NaN}', "line 1, reward: must be a finite number (got NaN)"),
        ('{"a": "é", "mask": [1, -Infinity]}', "mask: must be a finite number (got -Infinity)"),
        ('{"reward": nan}', "line 1: not valid JSON"),
        ("[" * 100_000, "line 1: not valid JSON"),
        ("\n\n", "has no records"),
    ],
)
def test_lines_that_are_none(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, line)
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: cannot be read: No such file"):
        list(read_rollouts(tmp_path / "nothing"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(LINE)), JSON, max_size=4))
def test_anything_is_taken_or_refused_by_name(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "any.jsonl"
    data = {**LINE, **change}
    path.write_text(json.dumps(data), encoding="utf-8", errors="replace")
    try:
        rollouts = list(read_rollouts(path))
    except UserError as error:
        assert "line 1" in str(error)
    else:
        for rollout in rollouts:
            orjson.dumps(to_row(rollout))


def test_parquet_holds_the_same(tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    bare = {**LINE, "reward": None, "student_topk": None, "reverse_kl": None}
    assert write_parquet(path, iter([LINE, bare])) == 2
    first, second = pq.read_table(path).to_pylist()
    assert first["student_topk"][0] == [{"id": 7, "logprob": -0.25}, {"id": 3, "logprob": -2.0}]
    same = {k: v for k, v in LINE.items() if not k.endswith(("topk", "data_row"))}
    assert {k: first[k] for k in same} == same
    rows = [row for _, row in read_parquet(path)]
    assert [row["data_row"] for row in rows] == [LINE["data_row"]] * 2
    assert second["reverse_kl"] is None and second["student_topk"] is None
