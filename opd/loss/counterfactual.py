"""Stored tokens under another objective, mask, clip or prefix: what the loss would have been.

Nothing is trained: the completions stay those that were sampled, at their temperature, and only
what the loss makes of them changes. Free of torch; `opd.loss.divergence_bounds` has the
mathematics.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, create_model, field_validator

from opd.config.data import Section
from opd.config.sections import ObjectiveConfig, Reduction
from opd.errors import UserError
from opd.loss import importance
from opd.loss.divergence_bounds import Array, Columns, Interval
from opd.loss.objective import Settings, StoredLosses, StoredTokens
from opd.loss.objective_table import LAB_PARAMETERS, OBJECTIVES, PARAMETERS, lab_limits, refusal

Mask = Literal[
    "trained", "all", "no_special", "top_entropy", "top_kl", "sure_teacher", "thinking", "answer"
]
OLD_MASKS = {"sure_coach": "sure_teacher"}  # still read
UNKNOWN = ObjectiveConfig.model_validate({})  # of imports, whose objective nobody knows
COLUMN_TEXTS = {
    "reverse_kl": "the exact reverse KL",
    "student_entropy": "the student's entropies",
    "teacher_entropy": "the teacher's entropies",
    "student_topk_other": "the teacher's log-probabilities of the student's likeliest tokens",
    "teacher_topk_other": "the teacher's likeliest tokens",
    "sampler_logprobs": "the log-probabilities as sampled",
    "student_logprobs": "the student's log-probabilities",
    "teacher_logprobs": "the teacher's log-probabilities",
    "advantages": "the advantages as trained",
    "special": "which tokens are special",
    "thinking": "the tokens' texts",
}


if TYPE_CHECKING:
    _Parameters = Section
else:
    _Parameters = create_model(
        "_Parameters",
        __base__=Section,
        **{
            name: (parameter.kind | None, Field(None, **lab_limits(parameter)))
            for name, parameter in LAB_PARAMETERS.items()
        },
    )


class LabSettings(_Parameters):
    """What to ask of stored tokens; an objective's setting left out is the run's own."""

    objective: str | None = Field(
        None, description="Any objective of the table; cross_entropy is −Σ p log q, never trained."
    )
    reduction: Reduction | None = None
    clip: float | None = Field(
        None, ge=0, le=1000, description="Maximum loss or advantage of a token, nats; 0: none."
    )
    mask: Mask = Field("trained", description="Which tokens count.")
    share: float = Field(
        0.2, gt=0, le=1, description="Fraction of tokens kept (top_entropy, top_kl)."
    )
    sure_below: float = Field(
        0.8,
        ge=0,
        le=100,
        description="Entropy (nats) below which the teacher counts as sure (sure_teacher).",
    )
    start: int = Field(0, ge=0, le=10_000_000, description="First position that counts, from 0.")
    prefix: int = Field(
        0, ge=0, le=10_000_000, description="Only positions below this one count; 0: all."
    )

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    @field_validator("objective")
    @classmethod
    def _in_the_table(cls, name: str | None) -> str | None:
        if name is not None and name not in OBJECTIVES:
            raise ValueError(f"must be one of {', '.join(OBJECTIVES)} (got {name!r:.80})")
        return name

    @field_validator("mask", mode="before")
    @classmethod
    def _old_name(cls, mask: Any) -> Any:
        return OLD_MASKS.get(mask, mask) if isinstance(mask, str) else mask

    def over(self, config: ObjectiveConfig) -> ObjectiveConfig:
        """The run's objective with these settings on top, without its reward's part.

        Raises UserError for a clip of a ratio that the objective does not have.
        """
        name = self.objective or config.name
        changes: dict[str, Any] = {"name": name, "reward_weight": 0.0}
        changes |= {p.name: p.default for p in PARAMETERS.values() if not p.lab_name}
        if self.reduction is not None:
            changes["reduction"] = self.reduction
        for lab_name, parameter in LAB_PARAMETERS.items():
            value = getattr(self, lab_name)
            optional = parameter.default is None
            if optional and value and (reason := refusal(parameter, name)):
                raise UserError(f"{reason} (got {name})", where=lab_name)
            if value is not None:
                changes[parameter.name] = value or None if optional else value
        clip = config.weighting.kl_clip if self.clip is None else self.clip or None
        weighting = config.weighting.model_copy(update={"kl_clip": clip})
        return config.model_copy(update={**changes, "weighting": weighting})

    def of_any_objective(self) -> "LabSettings":
        """Without what some objectives refuse."""
        optional = [name for name, p in LAB_PARAMETERS.items() if p.default is None]
        return self.model_copy(update=dict.fromkeys(optional))


def thinking(pieces: Sequence[str]) -> Array:
    """(T,) bool: the tokens from <think> to </think>, both included, by the tokens' texts.

    A completion that closes what it never opened was opened by its prompt; what is never closed
    lasts to the end.
    """
    text = "".join(pieces)
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]
    inside = np.zeros(len(pieces), bool)
    at, closed = text.find("<think>"), text.find("</think>")
    if closed >= 0 and not 0 <= at < closed:
        at = 0
    while at >= 0:
        closed = text.find("</think>", at)
        end = len(text) if closed < 0 else closed + len("</think>")
        ends = starts + [len(piece) for piece in pieces]
        inside |= (ends > at) & (starts < end)
        at = text.find("<think>", end)
    return inside


def reason_against(name: str, columns: Columns) -> str:
    """Why the record cannot say anything of an objective, or "" where it can."""
    entry = OBJECTIVES[name]
    for column in entry.columns:
        if column not in columns or not columns[column].size:
            return f"needs {COLUMN_TEXTS[column]}, which this record does not have"
    if entry.one_of and not set(entry.one_of) & set(columns):
        return "needs a teacher’s log-probabilities, which this record does not have"
    return ""


def trained_loss_unknown(settings: Settings, columns: Columns) -> bool:
    """Whether the record cannot say what the loss was as trained: the reward's part weighs the
    advantages by the importance ratio."""
    weighed = settings.reward_weight and "advantages" in columns
    return bool(
        reason_against(settings.name, columns)
        or (weighed and not set(importance.COLUMNS) <= set(columns))
    )


def losses(tokens: StoredTokens, settings: Settings) -> StoredLosses:
    """The objective of every token, clipped. Raises UserError where nothing is known."""
    if reason := reason_against(settings.name, tokens.columns):
        raise UserError(f"{settings.name} {reason}", where="objective")
    return OBJECTIVES[settings.name].stored(tokens, settings)


def as_trained(tokens: StoredTokens, settings: Settings) -> StoredLosses:
    """What the loss was: the run's objective, and the reward's part from the stored advantages.

    Not for records with `trained_loss_unknown`."""
    if "advantages" in tokens.columns and OBJECTIVES[settings.name].importance_ratio:
        result = importance.stored(tokens, tokens.wide("advantages"), settings)
        if settings.reference_kl:  # k3 ≥ 0, and the student's start is not stored
            high = np.full(len(tokens), np.inf)
            return replace(result, value=Interval(result.value.low, high))
        return result
    result = losses(tokens, settings)
    if "advantages" in tokens.columns and settings.reward_weight:
        extra = importance.stored(tokens, tokens.wide("advantages"), settings).value.low
        value = Interval(result.value.low + extra, result.value.high + extra)
        return replace(result, value=value)
    return result


def weights(tokens: StoredTokens, settings: LabSettings) -> Array:
    """(N,): how much each token counts. Raises UserError where the mask asks what is not stored.

    top_entropy and top_kl keep the ⌈share · n⌉ highest of those that start and prefix leave, over
    all completions together; of equal ones the first. Source: Wang et al., "Beyond the 80/20
    Rule", arXiv 2506.01939, for the entropy.
    """
    if settings.prefix and settings.prefix <= settings.start:
        raise UserError(
            f"must be above start, {settings.start} (got {settings.prefix})", where="prefix"
        )
    position = tokens.position
    inside = position >= settings.start
    if settings.prefix:
        inside &= position < settings.prefix
    if settings.mask == "trained":
        return np.where(inside, tokens.stored_mask(), 0)
    if settings.mask == "no_special":
        inside &= ~_column(tokens, "special").astype(bool)
    elif settings.mask == "thinking":
        inside &= _column(tokens, "thinking").astype(bool)
    elif settings.mask == "answer":
        inside &= ~_column(tokens, "thinking").astype(bool)
    elif settings.mask == "sure_teacher":
        inside &= _column(tokens, "teacher_entropy") < settings.sure_below
    elif settings.mask in ("top_entropy", "top_kl"):
        name = "student_entropy" if settings.mask == "top_entropy" else "reverse_kl"
        inside = _highest(_column(tokens, name), inside, settings.share)
    return inside.astype(np.float64)


def reduced(
    value: Interval, weight: Array, owner: Array, reduction: str
) -> tuple[float, float] | None:
    """One number from token losses, as its lowest and highest; None where nothing counts."""
    rows = weight > 0
    if not rows.any():
        return None
    scale = weight[rows]
    if reduction == "token_mean":
        scale = scale / scale.sum()
    elif reduction == "sequence_mean":
        sums = np.bincount(owner[rows], weight[rows])
        scale = scale / (sums[owner[rows]] * (sums > 0).sum())
    with np.errstate(invalid="ignore"):  # an infinite gain beside an infinite loss
        return float((scale * value.low[rows]).sum()), float((scale * value.high[rows]).sum())


def kl_share(tokens: StoredTokens, weight: Array) -> float | None:
    """Share of the reverse KL that lies in tokens that count; None where none is stored."""
    stored = tokens.columns.get("reverse_kl")
    if stored is None:
        return None
    kl = stored.astype(np.float64)
    total = float(kl.sum())
    return float(kl[weight > 0].sum()) / total if total > 0 else None


def _column(tokens: StoredTokens, name: str) -> Array:
    if name not in tokens.columns:
        raise UserError(
            f"needs {COLUMN_TEXTS[name]}, which this record does not have", where="mask"
        )
    return tokens.columns[name]


def _highest(values: Array, inside: Array, share: float) -> Array:
    order = np.argsort(-np.where(inside, values, -np.inf), kind="stable")
    highest = np.zeros(len(values), bool)
    highest[order[: math.ceil(share * int(inside.sum()) - 1e-9)]] = True
    return highest
