"""What a server's numbers are compared with: the trainer's own, after known texts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from opd.errors import UserError
from opd.models.load import Pair, load_pair
from opd.sampling.vllm.agreement import Agreement, known_texts, own_scores
from tests.support import tiny_models

TEXTS = [[5, 6, 7, 8, 9], [10, 11], [12]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tiny_models.save_model(Path(tmp_path_factory.mktemp("student")))
    return load_pair(folder, folder, device=torch.device("cpu"))


def test_own_numbers_are_those_after_the_whole_text_at_the_temperature(pair):
    ours = own_scores(pair, pair.student, TEXTS, temperature=0.7)
    for row, text in zip(ours, TEXTS, strict=True):
        logits = pair.student(torch.tensor([text])).logits[0, -1, : pair.vocab]
        np.testing.assert_allclose(row, (logits / 0.7).log_softmax(-1).detach(), atol=1e-5)


def test_known_texts_are_the_starts_of_distinct_prompts_and_their_halves():
    assert known_texts([[1, 2, 3], [1, 2, 3], [4]]) == [[1, 2, 3], [1, 2], [4]]
    many = known_texts([list(range(n, n + 200)) for n in range(100)])
    assert len(many) == 64 and {len(text) for text in many} == {64, 32}


def test_a_difference_in_one_place_is_one_of_the_mean(pair):
    ours = own_scores(pair, pair.student, TEXTS, temperature=1.0)
    prompts = known_texts(TEXTS)

    def ask(texts: list[list[int]]) -> list[dict[int, float]]:
        assert texts == prompts
        rows = own_scores(pair, pair.student, texts, temperature=1.0)
        exact = [{int(i): float(row[i]) for i in row.argsort()[-5:]} for row in rows]
        first = next(iter(exact[0]))
        exact[0][first] -= off
        return exact

    off = 0.0
    assert Agreement(TEXTS, ask, 1.0).check(pair, pair.student) == 0
    off = 0.1
    count = 5 * len(prompts)
    assert Agreement(TEXTS, ask, 1.0).check(pair, pair.student) == pytest.approx(0.1 / count, 1e-4)
    off = 1.0
    with pytest.raises(UserError, match=rf"of {count} tokens after {len(prompts)} known texts"):
        Agreement(TEXTS, ask, 1.0).check(pair, pair.student)
    assert ours.shape == (len(TEXTS), pair.vocab)
