"""The tokens of many rollouts of a run end to end, one array per column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class RunTokens:
    """N tokens of R rollouts. Damaged records are left out and counted."""

    rollouts: Sequence[Mapping[str, Any]]  # R rows: id, step, kind, author, finish_reason, …
    # (N,) or (N, k); only those that every one of the R has, and a mask where any of them has one
    columns: Mapping[str, NDArray[Any]]
    lengths: NDArray[np.int64]  # (R,)
    damaged: int

    @property
    def owner(self) -> NDArray[np.int64]:
        """(N,): which of the R rollouts a token belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def position(self) -> NDArray[np.int64]:
        """(N,): index in its completion."""
        return positions(self.lengths)


def positions(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each token's index in its completion, for completions of those lengths end to end."""
    starts = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
