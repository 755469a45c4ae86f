"""Scoring completions that somebody else wrote."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opd.errors import UserError
from opd.models.load import Pair, load_pair
from opd.training.rescore import CHUNK, score_rollouts
from opd.types import Rollout
from tests.opd.interchange.test_jsonl import read_rollouts, written
from tests.support.devices.tested import DEVICE
from tests.support.tiny_models import save_model

pytestmark = pytest.mark.device


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("models")
    student = save_model(folder / "student", seed=1)
    teacher = save_model(folder / "teacher", seed=2)
    return load_pair(student, teacher, device=DEVICE)


def scored(pair: Pair, path: Path, *lines: Any) -> list[Rollout]:
    source = read_rollouts(written(path / "in.jsonl", *lines))
    return list(score_rollouts(pair, source, temperature=None, top_k=2))


def test_tokens_given_as_texts_are_scored_as_the_text_they_join_to(
    pair: Pair, tmp_path: Path
) -> None:
    tokens = {"prompt_tokens": ["The te", "acher"], "completion_tokens": [" reads", " it"]}
    by_tokens, text = scored(
        pair,
        tmp_path,
        {**tokens, "sampler_logprobs": [-1, -2], "mask": [0, 1]},
        {"prompt": "The teacher", "completion": " reads it"},
    )
    assert by_tokens.prompt_ids.tolist() == text.prompt_ids.tolist()
    assert by_tokens.record.completion_ids.tolist() == text.record.completion_ids.tolist()
    np.testing.assert_array_equal(by_tokens.record.student_logprobs, text.record.student_logprobs)
    assert by_tokens.record.sampler_logprobs is None  # it was about other tokens
    assert by_tokens.record.mask is not None and by_tokens.record.mask.all()


def test_mask_and_sampler_are_kept(pair: Pair, tmp_path: Path) -> None:
    ids = {"prompt_token_ids": [5, 6], "completion_token_ids": [7, 8]}
    [record] = scored(pair, tmp_path, {**ids, "mask": [0, 1], "sampler_logprobs": [-1, -2]})
    assert record.record.mask is not None and record.record.mask.tolist() == [0, 1]
    assert record.record.sampler_logprobs is not None
    assert record.record.sampler_logprobs.tolist() == [-1, -2]


def test_who_scores_is_named_and_reads_the_students_prompt(pair: Pair, tmp_path: Path) -> None:
    before = {"teacher": "an older one", "teacher_prompt": "Hint. The te"}
    file = written(tmp_path / "in.jsonl", {"prompt": "The te", "completion": "acher", **before})
    [given] = read_rollouts(file)
    assert (given.teacher, given.teacher_prompt) == ("an older one", "Hint. The te")
    settings = {"temperature": None, "top_k": 2}
    [record] = score_rollouts(pair, [given], **settings, teacher="org/model")  # type: ignore[arg-type]
    assert (record.teacher, record.teacher_prompt) == ("org/model", None)


def test_a_bad_rollout_is_named_by_its_number_in_the_file(pair: Pair, tmp_path: Path) -> None:
    good = {"prompt_token_ids": [5], "completion_token_ids": [7]}
    bad = {"prompt_token_ids": [5], "completion_token_ids": [999]}
    with pytest.raises(UserError, match=rf"rollout {CHUNK + 2} .*token id 999 is outside"):
        scored(pair, tmp_path, *[good] * (CHUNK + 1), bad)
