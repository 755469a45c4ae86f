"""Divergences of stored tokens, as exact as the record allows, with the clip of a token's loss."""

from collections.abc import Callable

import numpy as np

from opd.loss.divergence_bounds import Interval, ListedIds
from opd.loss.objective import Settings, StoredLosses, StoredTokens

CHUNK = 16_384  # tokens whose listed ids are laid out at once


def bounded(
    tokens: StoredTokens, settings: Settings, bounds: Callable[[ListedIds], Interval]
) -> StoredLosses:
    """CHUNK tokens at a time: the listed ids of all of them would take a multiple of the record."""
    starts = range(0, max(1, len(tokens)), CHUNK)
    with np.errstate(invalid="ignore"):  # records may hold infinities
        pieces = [
            bounds(ListedIds({n: a[at : at + CHUNK] for n, a in tokens.columns.items()}))
            for at in starts
        ]
    ends = (np.concatenate([getattr(p, end) for p in pieces]) for end in ("low", "high"))
    return clipped(Interval(*ends), settings)


def clipped(value: Interval, settings: Settings) -> StoredLosses:
    """Losses limited to `weighting.kl_clip`, and which of them are or may be."""
    clip = settings.weighting.kl_clip
    if clip is None:
        return StoredLosses.unclipped(value)
    certain = value.low > clip
    return StoredLosses(value.limited(clip), certain, (value.high > clip) & ~certain)
