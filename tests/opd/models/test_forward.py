"""Hidden states that score completions, and what their gradient is made of."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from opd.devices.choice import allocatable_memory
from opd.models.batches import ScoreBatch
from opd.models.forward import (
    CARD_COPIES,
    CARD_VALUES,
    PIECE_TOKENS,
    completion_hidden,
    piece_values,
)


def test_threads_add_the_gradients_of_a_shared_prompt_in_one_order() -> None:
    """3,000 tokens scored by 250 positions, on two threads, again and again."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first, *others = (_gradient() for _ in range(20))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(first, other) for other in others)


def _gradient() -> Tensor:
    random = torch.Generator().manual_seed(0)
    states = torch.zeros(1, 250, 64, requires_grad=True)
    positions = torch.randint(250, (3000,), generator=random)
    one = torch.zeros(1, 250, dtype=torch.long)
    batch = ScoreBatch(one, one, None, positions, positions, (3000,), (250,))
    hidden = completion_hidden(_Model(states), batch)
    hidden.states.backward(torch.randn(3000, 64, generator=random))
    assert states.grad is not None
    return states.grad


def test_a_gpu_takes_larger_pieces_of_the_vocabulary_the_more_memory_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card, vocab = torch.device("cuda"), 151_936
    values = {}
    for gigabytes in (0.1, 2, 5, 7, 70):
        monkeypatch.setattr(
            "opd.models.forward.allocatable_memory", lambda _, g=gigabytes: int(g * 1e9)
        )
        values[gigabytes] = piece_values(vocab, card)
    assert values[70] == CARD_VALUES
    assert values[5] == values[7]  # a little more or less changes no sum
    assert values[0.1] < values[2] < values[5] < values[70]
    for gigabytes in (2, 5, 7, 70):
        assert values[gigabytes] * 4 * CARD_COPIES <= gigabytes * 1e9 / 4


def test_pieces_on_a_processor_depend_on_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert piece_values(50_000, torch.device("cpu")) == PIECE_TOKENS * 50_000
    assert allocatable_memory(torch.device("cpu")) is None


class _Model:
    """A causal LM whose decoder answers with given states, whatever it reads."""

    def __init__(self, states: Tensor) -> None:
        self._answer = BaseModelOutput(last_hidden_state=states)

    def get_decoder(self) -> Any:
        return lambda **_: self._answer
