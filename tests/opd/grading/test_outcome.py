"""The threshold between right and wrong."""

import pytest

from opd.grading.outcome import is_right


@pytest.mark.parametrize(
    ("reward", "right"),
    [(1.0, True), (0.51, True), (0.5, False), (0.0, False), (-2.0, False), (3.0, True)],
)
def test_a_reward_above_one_half_is_right(reward: float, right: bool):
    assert is_right(reward) is right


def test_without_a_reward_it_is_neither():
    assert is_right(None) is None
