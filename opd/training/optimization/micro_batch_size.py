"""How many tokens a GPU's pass takes where no setting says so, by what its memory holds.

A row of the first step is read forwards and backwards, twice at once, then four times, and so on
for as long as twice as many are sure to fit. Passes of few rows tell nothing of larger ones: their
peak is that of the gradients at the end, when the activations are gone. What does not fit at all is
recomputed in the backward pass, where that was left open. Sizes are powers of two, so that a run
that resumes beside a little more or less memory adds up the same micro-batches.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

from opd.config.sections import TOKENS_PER_PASS
from opd.devices.choice import allocatable_memory
from opd.devices.usage import peak_from_here
from opd.models.batches import Sequences
from opd.models.forward import causal, completion_hidden, recomputing
from opd.models.load import Pair
from opd.training.optimization.optimizers import bytes_of_first_step
from opd.training.scoring import batch_of

SHARE = 0.7  # of what is free, for activations; pieces of the vocabulary take from the rest
MOST_TOKENS = 65_536  # above that, larger products are no faster


class MicroBatchSize:
    """Chosen at the first update, for the whole run; `say` is told.

    `student` holds the weights that are trained; the pair's may be a copy that computes for it.
    """

    def __init__(
        self,
        student: Any,
        optimizer: torch.optim.Optimizer,
        *,
        longest_completion: int,
        may_recompute: bool,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._student, self._optimizer, self._say = student, optimizer, say
        self._longest_completion, self._may_recompute = longest_completion, may_recompute
        self._tokens: int | None = None

    def __call__(self, pair: Pair, whole: Sequences) -> int:
        """Tokens of a pass over such sequences."""
        if self._tokens is None:
            self._tokens = self._chosen(pair, whole)
        return self._tokens

    def _chosen(self, pair: Pair, whole: Sequences) -> int:
        free = allocatable_memory(pair.device)
        if free is None:
            return TOKENS_PER_PASS
        longest = max(map(len, whole.prompts)) + self._longest_completion
        room = SHARE * (free - bytes_of_first_step(self._optimizer))
        fitting = self._fitting(pair, whole, room)
        possible = causal(self._student).supports_gradient_checkpointing
        if fitting < longest and self._may_recompute and possible:
            for model in {causal(self._student), causal(pair.student)}:
                recompute(model)
            fitting = self._fitting(pair, whole, room)
            self._say(
                f"activations are recomputed in the backward pass: a row of {longest} tokens would "
                "not fit"
            )
        tokens = 1 << (max(1, min(MOST_TOKENS, int(fitting))).bit_length() - 1)
        self._say(
            f"micro-batches of {tokens} tokens: {free / 1e9:.1f} GB free, of which a pass of "
            f"{int(fitting)} would take {room / 1e9:.1f}"
        )
        return tokens

    def _fitting(self, pair: Pair, whole: Sequences, room: float) -> float:
        """Tokens of a pass that takes at most `room` bytes; 0 where not even a row can be read.

        A pass of twice the rows takes at most twice the memory.
        """
        row = max(range(len(whole)), key=lambda i: whole.lengths[i])
        length = whole.lengths[row]
        rows, peak, tried = 0, math.inf, 2  # one row alone is compiled apart
        while tried:
            try:
                peak = peak_of_pass(pair, whole.take([row] * tried))
                rows = tried
                grows = 2 * peak <= room and rows * length < MOST_TOKENS
                tried = 2 * rows if grows else 0
            except torch.OutOfMemoryError:
                tried = 0 if rows else tried // 2
            finally:
                for model in (self._student, pair.student):
                    model.zero_grad(set_to_none=True)
        return rows * length * room / max(1.0, peak)


def recompute(student: Any) -> None:
    """From now on the student's layers keep no activations inside `recomputing`."""
    causal(student).activation_checkpointing_enable(
        activation_checkpointing_kwargs={"use_reentrant": False}
    )


def peak_of_pass(pair: Pair, rows: Sequences) -> int:
    """Bytes above what is held before, at the most, while the rows are read and their gradient is
    added to that of the weights."""
    batch, device = batch_of(pair, rows), pair.device
    peak_from_here(device)
    before = torch.cuda.memory_allocated(device)
    with pair.computing(), recomputing(pair.student):
        states = completion_hidden(pair.student, batch).states
    states.sum().backward()  # type: ignore[no-untyped-call]
    return int(torch.cuda.max_memory_allocated(device) - before)
