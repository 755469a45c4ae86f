"""What an objective is: its words, its parameters, what it needs, its loss in torch and in NumPy.

Each file of `opd.loss.objectives` holds one objective or a family, and `opd.loss.objective_table`
collects them; settings, form, loss lab and documents are made from there. Free of torch, but for
annotations, and of the configuration, which is built on the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from opd.loss.divergence_bounds import Array, Columns, Interval

if TYPE_CHECKING:
    from torch import Tensor

# What an objective needs to know of the teacher at a token: its whole distribution, its likeliest
# tokens, its log-probability of the sampled token, or nothing.
Need = Literal["vocabulary", "top_k", "sampled", "nothing"]


class Weighting(Protocol):
    """How much each token counts, as the configuration has it."""

    @property
    def prefix_share(self) -> float: ...
    @property
    def skip_special(self) -> bool: ...
    @property
    def kl_clip(self) -> float | None: ...


class Settings(Protocol):
    """The configured objective; each parameter of the table is an attribute."""

    @property
    def name(self) -> str: ...
    @property
    def reward_weight(self) -> float: ...
    @property
    def weighting(self) -> Weighting: ...
    def __getattr__(self, name: str) -> Any: ...


@dataclass(frozen=True)
class LossInputs:
    """The N completion tokens of a micro-batch; only `student` carries a gradient.

    What an objective does not need may be None. All log-probabilities are in nats.
    """

    student: Tensor  # (N, V) log-probabilities
    targets: Tensor  # (N,) ids of the tokens written
    sampler: Tensor  # (N,) log-probabilities as sampled
    mask: Tensor  # (N,) weight in the loss; 0 does not count
    teacher: Tensor | None = None  # (N, V) log-probabilities, frozen
    teacher_at: Tensor | None = None  # (N,) the teacher's of the targets
    teacher_ids: Tensor | None = None  # (N, k) the teacher's likeliest ids
    teacher_top: Tensor | None = None  # (N, k) and their log-probabilities
    log_ratio: Tensor | None = None  # (N,) sampler − teacher, discounted over later tokens
    reward_advantage: Tensor | None = None  # (N,) of the whole completion, relative to its group
    reference_at: Tensor | None = None  # (N,) log-probabilities by the student as it started

    def where(self, rows: Tensor) -> LossInputs:
        """The inputs of these tokens only."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(
            self, **{k: v.index_select(0, rows) for k, v in given.items() if v is not None}
        )

    @property
    def whole_teacher(self) -> Tensor:
        """The teacher's whole distribution. Raises ValueError where there is none."""
        if self.teacher is None:
            raise ValueError("this objective needs the teacher's whole distribution")
        return self.teacher


@dataclass(frozen=True)
class TokenLoss:
    """loss (N,), with gradient; advantages (N,) detached, or None where the objective has none.

    `reverse_kl` (N,) is the exact one, detached, where the objective has it at hand anyway.
    """

    loss: Tensor
    advantages: Tensor | None = None
    reverse_kl: Tensor | None = None


@dataclass(frozen=True)
class StoredTokens:
    """N tokens of R completions end to end; `columns` are named as in a token record.

    Two more come from the text: `special` and `thinking`, (N,) bool.
    """

    columns: Columns
    lengths: Sequence[int]

    def __len__(self) -> int:
        return len(self.columns["completion_ids"])

    @property
    def position(self) -> Array:
        return np.concatenate([np.arange(n) for n in self.lengths] or [np.arange(0)])

    @property
    def owner(self) -> Array:
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def stored_mask(self) -> Array:
        stored = self.columns.get("mask")
        return np.ones(len(self)) if stored is None else stored.astype(np.float64)

    def wide(self, name: str) -> NDArray[np.float64]:
        """A column in float64."""
        values: NDArray[np.float64] = self.columns[name].astype(np.float64)
        return values


@dataclass(frozen=True)
class StoredLosses:
    """Of N tokens, before weights: the loss, and what a clip changed or may have changed."""

    value: Interval
    clipped: Array  # (N,) bool
    maybe_clipped: Array  # (N,) bool: the interval has the limit within

    @classmethod
    def unclipped(cls, value: Interval) -> StoredLosses:
        nothing = np.zeros(len(value.low), bool)
        return cls(value, nothing, nothing)


@dataclass(frozen=True)
class Parameter:
    """A setting that belongs to some objectives only. Without a default it may be left empty.

    `limits` are pydantic's: gt, ge, lt, le. `lab` is its name in the loss lab, where 0 stands for
    empty; "" if the lab cannot vary it. `elsewhere` refuses it beside another objective ({name} of
    it, {owners} of this parameter); without that text it is ignored there.
    """

    name: str
    help: str  # without the full stop, which comes after the objectives' names
    default: float | None
    limits: Mapping[str, Any]
    label: str
    unit: str = ""
    step: float | None = None  # of the lab's input
    whole: bool = False
    lab: str | None = None  # None: the same name
    elsewhere: str = ""

    @property
    def kind(self) -> type[int] | type[float]:
        return int if self.whole else float

    @property
    def lab_name(self) -> str:
        return self.name if self.lab is None else self.lab


@dataclass(frozen=True)
class Objective:
    """One entry of the table.

    `loss` is differentiable, before weights, and imports torch inside; without it the objective
    exists in the loss lab only. `stored` is the same from a token record, which must have `columns`
    and, where `one_of` names any, one of those.
    """

    name: str
    label: str
    help: str  # of the form's choice
    formula: str  # beside the lab's choice
    method: str  # the loss of a token in docs/method.md
    certainty: str  # what a record says of it, in docs/guide/loss-lab.md
    needs: Need
    stored: Callable[[StoredTokens, Settings], StoredLosses]
    columns: tuple[str, ...] = ()
    one_of: tuple[str, ...] = ()
    loss: Callable[[LossInputs, Settings], TokenLoss] | None = None
    trained: Callable[[Settings], str] = lambda settings: ""  # what is trained, in words
    parameters: tuple[Parameter, ...] = ()
    author: Literal["student", "teacher"] = "student"  # who writes the completions by default
    importance_ratio: bool = False  # its loss weighs advantages by it, and needs own samples
    rewards: bool = False  # its advantages are the group's rewards
    takes_reward_weight: bool = True
    looks_ahead: Callable[[Settings], bool] = lambda settings: False  # at later tokens

    @property
    def signed(self) -> bool:
        """Whether a token's loss may be negative."""
        return self.importance_ratio
