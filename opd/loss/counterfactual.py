"""Stored tokens under another objective, mask, clip or prefix: what the loss would have been.

Nothing is trained: the completions stay those that were sampled, at their temperature, and only
what the loss makes of them changes. Free of torch; `opd.loss.divergence_bounds` has the
mathematics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from opd.config.data import Section
from opd.config.sections import ObjectiveConfig
from opd.errors import UserError
from opd.loss import divergence_bounds
from opd.loss.credit import discounted
from opd.loss.divergence_bounds import Array, Columns, Interval, Listed

Mask = Literal[
    "trained", "all", "no_special", "top_entropy", "top_kl", "sure_coach", "thinking", "answer"
]
DIVERGENCES = ("reverse_kl", "forward_kl", "jsd", "skewed_kl", "entropy_aware")
TOP_K = ("student_top_k", "teacher_top_k")
OBJECTIVES = (*DIVERGENCES, *TOP_K, "policy_gradient", "sft", "grpo", "cross_entropy")
CHUNK = 16_384  # tokens whose listed ids are laid out at once
UNTOLD = ObjectiveConfig.model_validate({})  # of imports, whose objective nobody knows
RATIO = ("sampler_logprobs", "student_logprobs")  # what an importance ratio is made of
_NEEDED = {
    "cross_entropy": ("reverse_kl", "student_entropy"),
    "entropy_aware": ("teacher_entropy",),
    "student_top_k": ("student_topk_other", "teacher_topk_other"),
    "teacher_top_k": ("teacher_topk_other",),
    "policy_gradient": (*RATIO, "teacher_logprobs"),
    "sft": ("student_logprobs",),
    "grpo": ("advantages", *RATIO),
}
_WORDS = {
    "reverse_kl": "the exact reverse KL",
    "student_entropy": "the student's entropies",
    "teacher_entropy": "the coach's entropies",
    "student_topk_other": "the student's likeliest tokens as the coach judged them",
    "teacher_topk_other": "the coach's likeliest tokens",
    "sampler_logprobs": "the log-probabilities as sampled",
    "student_logprobs": "the student's log-probabilities",
    "teacher_logprobs": "the coach's log-probabilities",
    "advantages": "the advantages as trained",
    "special": "which tokens are special",
    "thinking": "the tokens' texts",
}


class LabSettings(Section):
    """What to ask of stored tokens; an objective's setting left out is the run's own."""

    objective: str | None = Field(
        None, description="One of OBJECTIVES; cross_entropy is −Σ p log q, which nobody trains."
    )
    beta: float | None = Field(None, ge=0, le=1)
    skew: float | None = Field(None, ge=0, lt=1)
    top_k: int | None = Field(None, ge=1, le=4096)
    entropy_threshold: float | None = Field(None, ge=0, le=100)
    coefficient: float | None = Field(None, gt=0, le=1000)
    gamma: float | None = Field(None, ge=0, le=1)
    reduction: Literal["token_mean", "sequence_mean", "sum"] | None = None
    clip: float | None = Field(
        None, ge=0, le=1000, description="Limit of a token's loss or advantage, in nats; 0: none."
    )
    ratio_clip: float | None = Field(
        None, ge=0, le=10, description="Clip of the importance ratio to 1 ± this; 0: none."
    )
    mask: Mask = Field("trained", description="Which tokens count.")
    share: float = Field(0.2, gt=0, le=1, description="Of top_entropy and top_kl: share kept.")
    sure_below: float = Field(
        0.8, ge=0, le=100, description="Of sure_coach: its entropy, in nats, below which it is."
    )
    start: int = Field(0, ge=0, le=10_000_000, description="First position that counts, from 0.")
    prefix: int = Field(
        0, ge=0, le=10_000_000, description="Only positions below this one count; 0: all."
    )

    @field_validator("objective")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in OBJECTIVES:
            raise ValueError(f"must be one of {', '.join(OBJECTIVES)} (got {name!r:.80})")
        return name

    def over(self, config: ObjectiveConfig) -> ObjectiveConfig:
        """The run's objective with these settings on top, without its reward's part.

        Raises UserError for a clip of a ratio that the objective does not have.
        """
        names = ("beta", "skew", "top_k", "entropy_threshold", "coefficient", "gamma", "reduction")
        changes = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        name = self.objective or config.name
        clip = config.weighting.kl_clip if self.clip is None else self.clip or None
        ratio_clip = self.ratio_clip
        if ratio_clip and name not in ("policy_gradient", "grpo"):
            raise UserError(
                f"only policy_gradient and grpo have an importance ratio to clip (got {name})",
                where="ratio_clip",
            )
        changes |= {
            "name": name,
            "clip": config.clip if ratio_clip is None else ratio_clip or None,
            "weighting": config.weighting.model_copy(update={"kl_clip": clip}),
            "reward_weight": 0.0,
            "reference_kl": 0.0,
        }
        return config.model_copy(update=changes)


@dataclass(frozen=True)
class Tokens:
    """N tokens of R completions end to end; `columns` are named as in a token record.

    Two more are known of the text: `special` and `thinking`, (N,) bool.
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


@dataclass(frozen=True)
class Losses:
    """Of N tokens, before weights: the loss, and what a clip changed or may have changed."""

    value: Interval
    clipped: Array  # (N,) bool
    maybe_clipped: Array  # (N,) bool: the interval has the limit within


def thinking(pieces: Sequence[str]) -> Array:
    """(T,) bool: the tokens from <think> to </think>, both included, by the tokens' texts.

    A completion that closes what it never opened was opened by its prompt; what is never closed
    lasts to the end.
    """
    text = "".join(pieces)
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]
    found = np.zeros(len(pieces), bool)
    at, closed = text.find("<think>"), text.find("</think>")
    if closed >= 0 and not 0 <= at < closed:
        at = 0
    while at >= 0:
        closed = text.find("</think>", at)
        end = len(text) if closed < 0 else closed + len("</think>")
        ends = starts + [len(piece) for piece in pieces]
        found |= (ends > at) & (starts < end)
        at = text.find("<think>", end)
    return found


def reason_against(name: str, columns: Columns) -> str:
    """Why the record cannot say anything of an objective, or "" where it can."""
    for needed in _NEEDED.get(name, ()):
        if needed not in columns or not columns[needed].size:
            return f"needs {_WORDS[needed]}, which this record does not have"
    if name in DIVERGENCES and not {"reverse_kl", "teacher_logprobs"} & set(columns):
        return "needs a coach's opinion, which this record does not have"
    return ""


def untold(config: ObjectiveConfig, columns: Columns) -> bool:
    """Whether the record cannot say what the loss was as trained: the reward's part weighs the
    advantages by the importance ratio."""
    weighed = config.reward_weight and "advantages" in columns
    return bool(
        reason_against(config.name, columns) or (weighed and not set(RATIO) <= set(columns))
    )


def losses(tokens: Tokens, config: ObjectiveConfig) -> Losses:
    """The configured objective of every token, clipped. Raises UserError where nothing is known."""
    columns, name = tokens.columns, str(config.name)
    if reason := reason_against(name, columns):
        raise UserError(f"{name} {reason}", where="objective")
    clip, nothing = config.weighting.kl_clip, np.zeros(len(tokens), bool)
    if name == "policy_gradient":
        return _policy_gradient(tokens, config)
    if name == "grpo":
        return _importance(columns, columns["advantages"].astype(np.float64), config.clip, nothing)
    if name == "sft":
        found = Interval.exactly(-columns["student_logprobs"])
    elif name == "cross_entropy":
        sides = [columns[n].astype(np.float64) for n in ("student_entropy", "reverse_kl")]
        found = Interval.exactly(sides[0] + sides[1])
    else:
        found = _divergence(tokens, config)
    if clip is None:
        return Losses(found, nothing, nothing)
    sure = found.low > clip
    return Losses(found.limited(clip), sure, (found.high > clip) & ~sure)


def _divergence(tokens: Tokens, config: ObjectiveConfig) -> Interval:
    """CHUNK tokens at a time: the listed ids of all of them would take a multiple of the record."""
    columns = tokens.columns
    starts = range(0, max(1, len(tokens)), CHUNK)
    with np.errstate(invalid="ignore"):  # records may hold infinities
        found = [
            divergence_bounds.divergence(
                Listed({n: a[at : at + CHUNK] for n, a in columns.items()}), config
            )
            for at in starts
        ]
    return Interval(*(np.concatenate([getattr(f, end) for f in found]) for end in ("low", "high")))


def as_trained(tokens: Tokens, config: ObjectiveConfig) -> Losses:
    """What the loss was: the objective of the run, and the reward's part from the advantages.

    `untold` records are not for this."""
    columns = tokens.columns
    own = "advantages" in columns
    nothing = np.zeros(len(tokens), bool)
    if own and config.name in ("policy_gradient", "grpo"):
        advantages = columns["advantages"].astype(np.float64)
        found = _importance(columns, advantages, config.clip, nothing)
        if config.reference_kl:  # k3 ≥ 0, and the student's start is not stored
            high = np.full(len(tokens), np.inf)
            found = Losses(Interval(found.value.low, high), found.clipped, found.maybe_clipped)
        return found
    found = losses(tokens, config)
    if own and config.reward_weight:
        advantages = columns["advantages"].astype(np.float64)
        extra = _importance(columns, advantages, None, nothing).value.low
        value = Interval(found.value.low + extra, found.value.high + extra)
        return Losses(value, found.clipped, found.maybe_clipped)
    return found


def weights(tokens: Tokens, settings: LabSettings) -> Array:
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
    elif settings.mask == "sure_coach":
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
        own = np.bincount(owner[rows], weight[rows])
        scale = scale / (own[owner[rows]] * (own > 0).sum())
    with np.errstate(invalid="ignore"):  # an infinite gain beside an infinite loss
        return float((scale * value.low[rows]).sum()), float((scale * value.high[rows]).sum())


def kl_share(tokens: Tokens, weight: Array) -> float | None:
    """Share of the reverse KL that lies in tokens that count; None where none is stored."""
    stored = tokens.columns.get("reverse_kl")
    if stored is None:
        return None
    kl = stored.astype(np.float64)
    total = float(kl.sum())
    return float(kl[weight > 0].sum()) / total if total > 0 else None


def _column(tokens: Tokens, name: str) -> Array:
    if name not in tokens.columns:
        raise UserError(f"needs {_WORDS[name]}, which this record does not have", where="mask")
    return tokens.columns[name]


def _highest(values: Array, inside: Array, share: float) -> Array:
    order = np.argsort(-np.where(inside, values, -np.inf), kind="stable")
    found = np.zeros(len(values), bool)
    found[order[: math.ceil(share * int(inside.sum()) - 1e-9)]] = True
    return found


def _policy_gradient(tokens: Tokens, config: ObjectiveConfig) -> Losses:
    columns = tokens.columns
    ratio = (columns["sampler_logprobs"] - columns["teacher_logprobs"]).astype(np.float32)
    if config.gamma:
        cuts = np.cumsum(tokens.lengths)[:-1]
        ratio = np.concatenate([discounted(r, config.gamma) for r in np.split(ratio, cuts)])
    advantages, clip = -config.coefficient * ratio.astype(np.float64), config.weighting.kl_clip
    touched = np.zeros(len(ratio), bool)
    if clip is not None:
        touched = np.abs(advantages) > clip
        advantages = np.clip(advantages, -clip, clip)
    return _importance(columns, advantages, config.clip, touched)


def _importance(columns: Columns, advantages: Array, clip: float | None, touched: Array) -> Losses:
    """−ratio · A; with a clip ε the pessimistic of both products, as in PPO."""
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = np.exp(columns["student_logprobs"].astype(np.float64) - columns["sampler_logprobs"])
        gain = ratio * advantages
        if clip is not None:
            limited = np.clip(ratio, 1 - clip, 1 + clip) * advantages
            touched = touched | (limited < gain)
            gain = np.minimum(gain, limited)
    return Losses(Interval.exactly(-gain), touched, np.zeros(len(gain), bool))
