"""Whether the server's weights are the student's: both say how likely some next tokens are.

Sent is not arrived: a reload was seen to leave a part of the old weights in place, without an
error. So after every update the server's log-probabilities of the tokens that it finds likeliest
after some known texts are compared with the trainer's own, at the run's temperature. (Those of a
prompt's own tokens would be more numbers, but vLLM 0.32.0 ends on a processor when it is asked for
them with an adapter, and takes nothing from its prefix cache for them.)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from opd.loss import divergences
from opd.models.batches import Sequences, score_batch
from opd.models.forward import completion_hidden, logits_of
from opd.models.load import Pair
from opd.sampling.vllm.address import server_error
from opd.types import Floats

MOST_PROMPTS, MOST_TOKENS = 32, 64  # of the known texts; and of each, from its start
LIKELIEST = 5  # tokens after each text that the server is asked for
AT_ONCE = 16  # texts of one pass
# Mean absolute difference in nats between two engines with the same weights: 1e-5 was measured in
# float32 on a processor; a GPU rounds products to TF32.
LIMITS = {torch.float32: 0.01, torch.bfloat16: 0.1}
MOVED = 3.0  # times the first difference: what the weights must have moved to tell new from old
NOISE = 1e-6
Likeliest = Mapping[int, float]  # log-probabilities of next tokens, by id


class Agreement:
    """Compares after each update. `ask` gives what the server finds likeliest after each text at
    the `temperature`."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        ask: Callable[[list[list[int]]], Sequence[Likeliest]],
        temperature: float,
    ) -> None:
        self._texts, self._ask, self._temperature = known_texts(prompts), ask, temperature
        self._first_gap: float | None = None
        self._anchor: Floats | None = None  # the student's own numbers when both last agreed

    def check(self, pair: Pair, model: Any) -> float:
        """The mean absolute difference in nats; `model` is what was sent. Raises UserError where
        it says that the server has other weights."""
        ours, theirs = self._ours(pair, model), self._ask(self._texts)
        gap, limit = _difference(ours, theirs), LIMITS[pair.dtype]
        measured = (
            f"its log-probabilities of {sum(map(len, theirs))} tokens after {len(self._texts)} "
            f"known texts differ from the trainer's by {gap:.2g} nats on average"
        )
        if not gap <= limit:
            raise server_error(
                f"does not compute what the student computes: {measured} (at most {limit:g}); it "
                "has other weights, another --dtype or another --logprobs-mode than "
                "processed_logprobs"
            )
        if self._first_gap is None or self._anchor is None:
            self._first_gap, self._anchor = max(gap, NOISE), ours
        elif _moved(ours, self._anchor, theirs) > MOVED * self._first_gap:
            stale = _difference(self._anchor, theirs)
            if gap > stale:
                raise server_error(
                    f"did not take the new weights: {measured}, and from those of earlier weights "
                    f"by {stale:.2g}"
                )
            self._anchor = ours
        return gap

    def _ours(self, pair: Pair, model: Any) -> Floats:
        parts = [self._texts[i : i + AT_ONCE] for i in range(0, len(self._texts), AT_ONCE)]
        return np.concatenate(
            [own_scores(pair, model, part, temperature=self._temperature) for part in parts]
        )


def known_texts(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The starts of some prompts, and the first halves of these."""
    distinct: dict[tuple[int, ...], None] = {}
    for prompt in prompts:
        if len(distinct) < 2 * MOST_PROMPTS:
            start = tuple(prompt[:MOST_TOKENS])
            distinct |= {start: None, start[: -(-len(start) // 2)]: None}
    return [list(text) for text in distinct]


@torch.no_grad()
def own_scores(
    pair: Pair, model: Any, texts: Sequence[Sequence[int]], *, temperature: float
) -> Floats:
    """The model's log-probabilities (N, V) of all tokens after each of N texts."""
    following = Sequences(list(texts), [[0]] * len(texts))
    with pair.computing():
        batch = score_batch(following, pad_id=pair.pad_id, device=pair.device)
        hidden = completion_hidden(model, batch).piece(slice(0, len(texts)))
        logits = logits_of(model, hidden, vocab=pair.vocab)
        return divergences.log_probs(logits, temperature).float().cpu().numpy()


def _difference(ours: Floats, theirs: Sequence[Likeliest]) -> float:
    """Mean absolute difference over the tokens that the server names."""
    return float(
        np.mean([abs(ours[n, i] - v) for n, entry in enumerate(theirs) for i, v in entry.items()])
    )


def _moved(ours: Floats, before: Floats, theirs: Sequence[Likeliest]) -> float:
    """The same between the trainer's own numbers now and before."""
    named = [dict.fromkeys(entry, 0.0) for entry in theirs]
    return _difference(ours - before, named)
