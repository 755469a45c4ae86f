"""Hidden states that score completions, and what their gradient is made of."""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from opd.models.batches import ScoreBatch
from opd.models.forward import completion_hidden


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
    found = completion_hidden(_Model(states), batch)
    found.states.backward(torch.randn(3000, 64, generator=random))
    assert states.grad is not None
    return states.grad


class _Model:
    """A causal LM whose decoder answers with given states, whatever it reads."""

    def __init__(self, states: Tensor) -> None:
        self._answer = BaseModelOutput(last_hidden_state=states)

    def get_decoder(self) -> Any:
        return lambda **_: self._answer
