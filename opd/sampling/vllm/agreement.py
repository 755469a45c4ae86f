"""Whether the server's weights are the student's: both score the same known tokens.

Sent is not arrived: a reload was seen to leave a part of the old weights in place, without an
error. So after every update the server's log-probabilities of some tokens are compared with the
trainer's own.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from opd.loss import divergences
from opd.models.batches import Sequences, score_batch
from opd.models.forward import completion_hidden, logits_of, piece_values, spans
from opd.models.load import Pair
from opd.sampling.vllm.client import server_error
from opd.types import Floats

MOST_PROMPTS, MOST_TOKENS = 32, 64  # of the known texts; and of each, from its start
# Mean absolute difference in nats between two engines with the same weights: 1e-5 was measured in
# float32 on a processor; a GPU rounds products to TF32.
LIMITS = {torch.float32: 0.01, torch.bfloat16: 0.1}
MOVED = 3.0  # times the first difference: what the weights must have moved to tell new from old
NOISE = 1e-6


class Agreement:
    """Compares after each update. `score` gives the server's log-probabilities of all tokens but
    the first of each text, at temperature 1."""

    def __init__(
        self, prompts: Sequence[Sequence[int]], score: Callable[[list[list[int]]], Floats]
    ) -> None:
        distinct: dict[tuple[int, ...], None] = {}
        for prompt in prompts:
            if len(prompt) > 1 and len(distinct) < MOST_PROMPTS:
                distinct[tuple(prompt[: MOST_TOKENS + 1])] = None
        self._texts = [list(text) for text in distinct]
        self._score = score
        self._first_gap: float | None = None
        self._anchor: Floats | None = None  # the student's own scores when both last agreed

    def check(self, pair: Pair, model: Any) -> float:
        """The mean absolute difference in nats; `model` is what was sent. Raises UserError where
        it says that the server has other weights."""
        if not self._texts:
            return 0.0
        own, theirs = own_scores(pair, model, self._texts), self._score(self._texts)
        gap, limit = _distance(own, theirs), LIMITS[pair.dtype]
        measured = (
            f"its log-probabilities of {len(own)} known tokens differ from the trainer's by "
            f"{gap:.2g} nats on average"
        )
        if not gap <= limit:
            raise server_error(
                f"does not compute what the student computes: {measured} (at most {limit:g})"
            )
        if self._first_gap is None or self._anchor is None:
            self._first_gap, self._anchor = max(gap, NOISE), own
        elif _distance(own, self._anchor) > MOVED * self._first_gap:
            stale = _distance(self._anchor, theirs)
            if gap > stale:
                raise server_error(
                    f"did not take the new weights: {measured}, and from those of earlier weights "
                    f"by {stale:.2g}"
                )
            self._anchor = own
        return gap


@torch.no_grad()
def own_scores(pair: Pair, model: Any, texts: Sequence[Sequence[int]]) -> Floats:
    """The model's log-probabilities of all tokens but the first of each text, at temperature 1."""
    with pair.computing():
        return np.concatenate([*_scores(pair, model, texts)]).astype(np.float32)


def _scores(pair: Pair, model: Any, texts: Sequence[Sequence[int]]) -> Iterator[Floats]:
    for text in texts:
        known = Sequences([text[:1]], [text[1:]])
        batch = score_batch(known, pad_id=pair.pad_id, device=pair.device)
        hidden = completion_hidden(model, batch)
        limit = piece_values(pair.vocab, pair.device)
        for cut in spans(len(batch.targets), vocab=pair.vocab, limit=limit):
            logits = logits_of(model, hidden.piece(cut), vocab=pair.vocab)
            logp = divergences.log_probs(logits, 1.0)
            yield divergences.at(logp, batch.targets[cut]).float().cpu().numpy()


def _distance(left: Floats, right: Floats) -> float:
    return float(np.abs(left - right).mean())
