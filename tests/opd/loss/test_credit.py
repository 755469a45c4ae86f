"""Weights, discounts and group rewards, by hand and by their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opd.config.sections import WeightingConfig
from opd.errors import UserError
from opd.loss.credit import check_weights, discounted, group_advantages, token_weights


def weights(n, special=(), **settings):
    return token_weights(np.arange(n), special, WeightingConfig(**settings)).tolist()


def test_every_token_counts_unless_it_is_said_otherwise():
    assert weights(4) == [1, 1, 1, 1]
    assert weights(4, special=[3]) == [1, 1, 1, 1]


def test_the_prefix_is_rounded_up():
    assert weights(10, prefix_share=0.3) == [1] * 3 + [0] * 7
    assert weights(4, prefix_share=0.3) == [1, 1, 0, 0]
    assert weights(1, prefix_share=0.01) == [1]


def test_special_tokens_can_be_left_out():
    assert weights(4, special=[0, 3], skip_special=True) == [0, 1, 1, 0]
    assert weights(4, special=[0, 3], skip_special=True, prefix_share=0.5) == [0, 1, 0, 0]


def test_a_step_without_a_token_that_counts_is_refused():
    check_weights([np.zeros(2), np.ones(1)])
    with pytest.raises(UserError, match="no token of this step counts"):
        check_weights([np.zeros(2), np.zeros(3)])


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=30), st.floats(0, 1))
def test_discounted_is_the_sum_over_later_tokens(values, gamma):
    d = np.array(values)
    sums = discounted(d, gamma)
    for t in range(len(d)):
        expected = sum(gamma**k * d[t + k] for k in range(len(d) - t))
        assert sums[t] == pytest.approx(expected, abs=1e-9, rel=1e-9)


def test_discount_zero_is_the_token_itself():
    d = np.array([1.0, -2.0, 3.0], np.float32)
    assert discounted(d, 0.0) is d
    assert discounted(d, 1.0).tolist() == [2.0, 1.0, 3.0]
    assert discounted(d, 0.5).tolist() == [0.75, -0.5, 3.0]


def test_group_advantages_by_hand():
    plain = group_advantages([1, 0, 0, 0, 1, 1], [7, 7, 7, 7, 8, 8], normalize=False)
    assert plain == pytest.approx([0.75, -0.25, -0.25, -0.25, 0, 0])
    scaled = group_advantages([1, 0, 0, 0], [7] * 4, normalize=True)
    assert scaled == pytest.approx([0.75 / 0.5001, *[-0.25 / 0.5001] * 3])


def test_completions_without_a_reward_or_a_group_get_nothing():
    assert group_advantages([None, 1, 0], [1, 1, 1], normalize=False) == [0, 0.5, -0.5]
    assert group_advantages([1, 0], [1, 2], normalize=True) == [0, 0]
