"""What a stored token record says of divergences whose whole distributions are gone.

Free of torch. A record lists some ids with both models' log-probabilities: both top-k and the
sampled token. Of all others, the rest R, it tells the masses p_R and q_R, the exact reverse KL and
the entropies. A divergence here is a sum over ids of g(p_v, q_v) ≥ 0 with g(p, q) = q h(p/q), h
convex and h(1) = h'(1) = 0 (for a KL, a (log a − log b) − a + b). So it is the sum over the listed
ids plus what R adds, which lies between two numbers.

low   Merging the ids of R into one never raises a divergence (log-sum inequality): g(p_R, q_R).
      Source: Cover and Thomas, Elements of Information Theory, 2.7.
      KL(q‖p) has a second one. No id of R has p_v > a, the student's k-th probability, hence
      Σ_R q log(q/p) ≥ Σ_R q log q − q_R log a; the teacher's entropy gives Σ_R q log q.
high  Let t_v = log(p_v/q_v) and W(t) = (h(eᵗ) − h(0)) / eᵗ; then Σ_R g = q_R h(0) + Σ_R p_v W(t_v).
      Where W is concave, Jensen gives at most q_R h(0) + p_R W(T) with T = Σ_R p_v t_v / p_R, and
      Σ_R p_v t_v is what the listed ids leave of the exact reverse KL.
      Skewed: W(t) = t − log((1 − α) + α eᵗ), concave since log(b + eᵗ) is convex.
      JSD, u = eᵗ (1 − β)/β: W(t) = (1 − β)(t − log β − (1 + u) log(1 + u)/u), concave since the
      derivative of the last fraction by t is 1 − log(1 + u)/u, which rises.
      Both rise with T, up to the bound for disjoint supports, which stands where no KL is stored.
      KL(q‖p) has none: an id of R may have p_v as small as it likes.

Bounds hold up to rounding of the stored float32 numbers, ROUNDING of what they are made of.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROUNDING = 1e-6
LEAST_TAIL = 1e-12  # as opd.loss.divergences.bucketed_reverse_kl
STEEP = 60.0  # nats from which on W has reached its limit
Array = NDArray[Any]
Columns = Mapping[str, Array]


@dataclass(frozen=True)
class Interval:
    """(N,) each, nats; `high` is infinite where the record allows no upper bound."""

    low: Array
    high: Array

    @classmethod
    def exactly(cls, values: Array) -> "Interval":
        ends = np.asarray(values, np.float64)
        return cls(ends, ends)

    @property
    def exact(self) -> Array:
        """(N,) bool: both ends are the same."""
        same: Array = self.low == self.high
        return same

    def limited(self, clip: float) -> "Interval":
        return Interval(np.minimum(self.low, clip), np.minimum(self.high, clip))


@dataclass(frozen=True)
class Rest:
    """One model's mass outside the listed ids, (N,), and how far rounding may have moved it."""

    mass: Array
    slack: Array


class ListedIds:
    """The ids of a record that both models' log-probabilities are known of, each once."""

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self.student, self.teacher, ids, sides = _entries(columns)
        self.in_student, self.in_teacher = sides
        self.ids = ids
        self.p, self.q = np.exp(self.student), np.exp(self.teacher)
        self.whole = "reverse_kl" in columns  # the teacher's whole distribution was there
        self.rest_p = self._rest("student", self.p, self.in_student)
        self.rest_q = self._rest("teacher", self.q, self.in_teacher)
        tails = [columns.get(f"{side}_topk_tail") for side in ("student", "teacher")]
        self.complete: Array = np.zeros(len(self.p), bool)
        if self.whole and tails[0] is not None and tails[1] is not None and self._both_sides:
            self.complete = np.asarray((tails[0] == 0) & (tails[1] == 0))

    @property
    def _both_sides(self) -> bool:
        return all(f"{side}_topk_other" in self.columns for side in ("student", "teacher"))

    def _rest(self, side: str, mass: Array, inside: Array) -> Rest:
        """From the stored tail where there is one: 1 less what is listed would lose a small one."""
        tail = self.columns.get(f"{side}_topk_tail")
        if tail is None or f"{side}_topk_other" not in self.columns:
            left = 1 - mass.sum(-1)
            return Rest(np.maximum(left, 0), np.full(len(mass), ROUNDING))
        wide = tail.astype(np.float64)
        left = wide - np.where(inside, 0, mass).sum(-1)
        return Rest(np.maximum(left, 0), ROUNDING * (wide if self.whole else np.ones(len(mass))))

    def outside(self, side: str, of: str, k: int) -> Array:
        """Mass of `of` outside the first k of `side`'s list."""
        inside = self.in_student if side == "student" else self.in_teacher
        mass, rest = (self.p, self.rest_p) if of == "student" else (self.q, self.rest_q)
        part = "logprobs" if of == side else "other"
        beyond = np.exp(self.columns[f"{side}_topk_{part}"][:, k:], dtype=np.float64).sum(-1)
        if of == side:
            tail: Array = self.columns[f"{side}_topk_tail"].astype(np.float64) + beyond
            return tail
        others: Array = rest.mass + np.where(inside, 0, mass).sum(-1) + beyond
        return others


def reverse_kl(listed: ListedIds) -> Interval:
    """Exact where it is stored, else at least the sum over the listed ids and one bucket."""
    stored = listed.columns.get("reverse_kl")
    if stored is not None:
        return Interval.exactly(stored)
    low = _sum(kl_term(listed.student, listed.teacher)) + _least(listed, kl_term)
    return Interval(low, np.full(len(low), np.inf))


def forward_kl(listed: ListedIds) -> Interval:
    """At least; exact where the lists hold the whole vocabulary."""
    over_listed = _sum(kl_term(listed.teacher, listed.student))
    rest = _least(listed, lambda p, q: kl_term(q, p))
    rest = np.maximum(rest, _by_cap(listed))
    high = np.where(listed.complete, over_listed, np.inf)
    return Interval(np.where(listed.complete, over_listed, over_listed + rest), high)


def skewed_kl(listed: ListedIds, alpha: float) -> Interval:
    """KL(p‖(1 − α) q + α p)."""
    if alpha == 0:
        return reverse_kl(listed)

    def term(p: Array, q: Array) -> Array:
        return kl_term(p, np.logaddexp(q + np.log1p(-alpha), p + np.log(alpha)))

    t = _steepness(listed)
    steep = t - np.log((1 - alpha) + alpha * np.exp(t)) - (1 - alpha)
    high = listed.rest_p.mass * steep + (1 - alpha) * listed.rest_q.mass
    return _between(listed, term, high)


def jsd(listed: ListedIds, beta: float) -> Interval:
    """β KL(q‖m) + (1 − β) KL(p‖m); the ends by convention the forward and the reverse KL."""
    if beta in (0, 1):
        return forward_kl(listed) if beta == 0 else reverse_kl(listed)

    def term(p: Array, q: Array) -> Array:
        middle = np.logaddexp(p + np.log1p(-beta), q + np.log(beta))
        terms: Array = beta * kl_term(q, middle) + (1 - beta) * kl_term(p, middle)
        return terms

    t = _steepness(listed)
    u = np.maximum(np.exp(t) * (1 - beta) / beta, 1e-300)
    steep = (1 - beta) * (t - np.log(beta) - (1 + u) * np.log1p(u) / u)
    high = listed.rest_p.mass * steep - beta * np.log(beta) * listed.rest_q.mass
    return _between(listed, term, high)


def entropy_aware(listed: ListedIds, threshold: float) -> Interval:
    """The reverse KL where the teacher is sure, else the forward KL."""
    sure = listed.columns["teacher_entropy"] < threshold
    reverse, forward = reverse_kl(listed), forward_kl(listed)
    return Interval(
        np.where(sure, reverse.low, forward.low), np.where(sure, reverse.high, forward.high)
    )


def top_k(listed: ListedIds, side: str, k: int) -> Interval:
    """Reverse KL over one model's k likeliest and a bucket for the rest.

    Exact up to the stored k. Beyond it, a finer partition: at least that of the stored k and at
    most the exact reverse KL.
    """
    ids = listed.columns[f"{side}_topk_ids"]
    used = min(k, ids.shape[1])
    listed_logprobs, other = (
        listed.columns[f"{side}_topk_{part}"][:, :used].astype(np.float64)
        for part in ("logprobs", "other")
    )
    p, q = (listed_logprobs, other) if side == "student" else (other, listed_logprobs)
    out_p, out_q = (listed.outside(side, of, used) for of in ("student", "teacher"))
    if not listed.whole:
        out_q = np.maximum(out_q, LEAST_TAIL)
    bucketed = kl_term(p, q).sum(-1) + kl_term(_log(out_p), _log(out_q))
    if k <= ids.shape[1]:
        return Interval.exactly(bucketed)
    whole = reverse_kl(listed)
    low = np.where(listed.complete, whole.low, np.minimum(bucketed, whole.high))
    return Interval(low, whole.high)


def _sum(terms: Array) -> Array:
    total: Array = terms.sum(-1)
    return total


def kl_term(a: Array, b: Array) -> Array:
    """a (log a − log b) − a + b of log-probabilities: ≥ 0, and precise where both are close."""
    with np.errstate(all="ignore"):
        x = a - b
        near = np.exp(a) * (np.expm1(-x) + x)
        far = np.exp(a) * x - np.exp(a) + np.exp(b)
        term = np.where(x > -1, near, far)
    term = np.where(b == -np.inf, np.inf, term)
    return np.where(a == -np.inf, np.exp(b), term)


def _between(listed: ListedIds, term: Any, high: Array) -> Interval:
    base = _sum(term(listed.student, listed.teacher))
    low = base + _least(listed, term)
    high = np.maximum(base + high, low)
    return Interval(np.where(listed.complete, base, low), np.where(listed.complete, base, high))


def _least(listed: ListedIds, term: Any) -> Array:
    """g(p_R, q_R), both moved towards each other by their rounding."""
    p, q = listed.rest_p, listed.rest_q
    slack, gap = p.slack + q.slack, p.mass - q.mass
    sign = np.sign(gap)
    merged = term(_log(p.mass - sign * p.slack), _log(q.mass + sign * q.slack))
    return np.where(np.abs(gap) <= slack, 0, merged)


def _by_cap(listed: ListedIds) -> Array:
    """The lower bound of what R adds to KL(q‖p) from the cap on p and the teacher's entropy."""
    columns = listed.columns
    if "student_topk_logprobs" not in columns or "teacher_entropy" not in columns:
        return np.zeros(len(listed.p))
    if not columns["student_topk_logprobs"].shape[1]:
        return np.zeros(len(listed.p))
    cap = columns["student_topk_logprobs"][:, -1].astype(np.float64)
    entropy = columns["teacher_entropy"].astype(np.float64)
    listed_part = np.where(listed.q > 0, listed.q * np.where(listed.q > 0, listed.teacher, 0), 0)
    negentropy = -entropy - listed_part.sum(-1)  # Σ_R q log q
    p, q = listed.rest_p, listed.rest_q
    slack = ROUNDING * (1 + entropy) + q.slack * (1 - cap) + p.slack
    bound: Array = negentropy - q.mass * cap - q.mass + p.mass - slack
    return np.where(np.isfinite(bound), bound, 0)


def _steepness(listed: ListedIds) -> Array:
    """T: the mean of log(p/q) over R under p, from what the listed ids leave of the reverse KL."""
    stored = listed.columns.get("reverse_kl")
    mass = listed.rest_p.mass
    if stored is None:
        return np.full(len(mass), STEEP)
    kl = stored.astype(np.float64)
    spent = _sum(kl_term(listed.student, listed.teacher))
    with np.errstate(all="ignore"):
        left = kl + ROUNDING * (1 + kl) - spent + mass - listed.rest_q.mass
        least = np.log(mass / listed.rest_q.mass)
        steepness = np.fmax(left / mass, least)
    return np.clip(np.where(np.isfinite(steepness), steepness, STEEP), -STEEP, STEEP)


def _log(mass: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(mass, 0))


def _entries(columns: Columns) -> tuple[Array, Array, Array, tuple[Array, Array]]:
    """Log-probabilities of student and teacher (N, U), the ids, and whose list each is in.

    An id that comes again has −inf twice, which adds nothing to any sum.
    """
    parts: list[tuple[Array, Array, Array, str]] = []
    for side in ("student", "teacher"):
        if f"{side}_topk_other" in columns:
            logprobs_of_side, others = (
                columns[f"{side}_topk_logprobs"],
                columns[f"{side}_topk_other"],
            )
            both = (logprobs_of_side, others) if side == "student" else (others, logprobs_of_side)
            parts.append((columns[f"{side}_topk_ids"], *both, side))
    if "student_logprobs" in columns and "teacher_logprobs" in columns:
        names = ("completion_ids", "student_logprobs", "teacher_logprobs")
        one, p, q = (columns[name][:, None] for name in names)
        parts.append((one, p, q, ""))
    n = len(columns["completion_ids"])
    if not parts:
        nothing = np.full((n, 0), -np.inf)
        return nothing, nothing, nothing.astype(np.int64), (nothing > 0, nothing > 0)
    ids = np.concatenate([part[0].astype(np.int64) for part in parts], axis=1)
    order = np.argsort(ids, axis=1, kind="stable")

    def ordered(pieces: list[Array]) -> Array:
        return np.take_along_axis(np.concatenate(pieces, axis=1), order, axis=1)

    ids = np.take_along_axis(ids, order, axis=1)
    again = np.zeros(ids.shape, bool)
    again[:, 1:] = ids[:, 1:] == ids[:, :-1]
    student, teacher = (
        np.where(again, -np.inf, ordered(list(logprobs)).astype(np.float64))
        for logprobs in ([part[1] for part in parts], [part[2] for part in parts])
    )
    whose = [
        _anywhere(ordered([np.full(part[0].shape, part[3] == side) for part in parts]), again)
        for side in ("student", "teacher")
    ]
    return student, teacher, ids, (whose[0], whose[1])


def _anywhere(flags: Array, again: Array) -> Array:
    """Whether an id's first entry or one of its repetitions, at most two, has the flag."""
    anywhere = flags.copy()
    for _ in range(2):
        anywhere[:, :-1] |= anywhere[:, 1:] & again[:, 1:]
    return anywhere
