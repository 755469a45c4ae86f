"""What the checks are given of a run: its tokens, step metrics and scores, as arrays."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opd.diagnosis.run_tokens import RunTokens

LEAST_GAIN = 0.02
TAG = re.compile(rb"\s*</?[a-z_]+>\s*$")
PART = re.compile(rb"\s*<\|?/?(think|thought|reason|tool|answer|box|im_start|start|begin)")
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class RunRecords:
    """N tokens of R rollouts of one kind, S steps and the scores of a run."""

    config: Mapping[str, Any]
    tokens: RunTokens
    texts: Mapping[int, tuple[bytes, bool]]  # token id → (bytes, special)
    steps: Mapping[str, Floats]  # (S,) a metric; NaN where a step lacks it
    scores: Sequence[tuple[float, float]]  # pass@1 of the first suite: value, standard error
    skipped: int = 0  # rollouts that are not among the R, to bound the work

    def column(self, name: str) -> Floats | None:
        """(N,) in float64; None where some of the rollouts lack it."""
        values = self.tokens.columns.get(name)
        return None if values is None else values.astype(np.float64)

    @cached_property
    def teacher_topk(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
        """(N, k) each: the teacher's most likely ids, its log-probabilities, the student's."""
        parts = [self.tokens.columns.get(f"teacher_topk_{n}") for n in ("ids", "logprobs", "other")]
        ids, logprobs, others = parts
        if ids is None or logprobs is None or others is None or not ids.shape[1]:
            return None
        return ids, logprobs, others

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        ids = self.tokens.columns.get("completion_ids")
        return np.zeros(0, np.int64) if ids is None else ids.astype(np.int64)

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        return self.tokens.owner

    @cached_property
    def position(self) -> NDArray[np.int64]:
        return self.tokens.position

    @cached_property
    def last(self) -> NDArray[np.int64]:
        """(R,): where each rollout's last token lies among the N."""
        return np.cumsum(self.tokens.lengths) - 1

    @cached_property
    def counts(self) -> Bools:
        """(N,): written by the student, and not masked out of the loss."""
        mask = self.tokens.columns.get("mask")
        by_student = self.by_student[self.owner]
        return by_student if mask is None else np.asarray(by_student & (mask > 0))

    @cached_property
    def by_student(self) -> Bools:
        """(R,): written by the student."""
        return np.array([r["author"] == "student" for r in self.tokens.rollouts], bool)

    @cached_property
    def finished(self) -> Bools:
        """(R,): ended with a stop token, with at least one token."""
        stopped = [r["finish_reason"] == "stop" for r in self.tokens.rollouts]
        return np.array(stopped, bool) & (self.tokens.lengths > 0)

    @cached_property
    def late(self) -> Bools:
        """(R,): of the last third of the steps."""
        steps = np.array([r["step"] for r in self.tokens.rollouts], np.int64)
        distinct = np.unique(steps)
        first = distinct[-max(1, -(-len(distinct) // 3))] if len(distinct) else 0
        return np.asarray(steps >= first)

    @cached_property
    def kl(self) -> Floats | None:
        """(N,): reverse KL, or |log-ratio| where the teacher gave no distribution."""
        exact = self.column("reverse_kl")
        if exact is not None:
            return np.nan_to_num(exact)
        student, teacher = self.column("student_logprobs"), self.column("teacher_logprobs")
        if student is None or teacher is None:
            return None
        return np.abs(np.nan_to_num(student - teacher))

    def is_special(self, ids: NDArray[Any]) -> Bools:
        special = [i for i, (_, mark) in self.texts.items() if mark]
        return np.isin(ids, special)

    def is_tag(self, ids: NDArray[Any], pattern: re.Pattern[bytes] = TAG) -> Bools:
        """Tokens such as <think>; PART matches those that open or close a part of an answer."""
        return np.isin(ids, [i for i, (data, _) in self.texts.items() if pattern.match(data)])

    @cached_property
    def template(self) -> Bools:
        """(N,): the first token of a completion, tags and special tokens, but not its end."""
        inside: Bools = (self.position == 0) | self.is_special(self.ids) | self.is_tag(self.ids)
        inside[self.last[self.finished]] = False
        return inside

    def text(self, token_id: int) -> str:
        """An id with its text, for people."""
        if token_id not in self.texts:
            return f"{token_id}"
        return f"{self.texts[token_id][0].decode('utf-8', 'replace')!r:.42} (id {token_id})"

    def first_and_last(self, metric: str) -> tuple[float, float, int] | None:
        """Means of a step metric over the first and the last quarter of the steps that have it,
        and their number."""
        values = self.steps.get(metric)
        finite = values[np.isfinite(values)] if values is not None else np.zeros(0)
        if len(finite) < 2:
            return None
        quarter = max(1, len(finite) // 4)
        return float(finite[:quarter].mean()), float(finite[-quarter:].mean()), len(finite)

    @property
    def gain(self) -> tuple[float, float] | None:
        """How far the held-out score, else the reward, has risen, and what is beyond chance."""
        if len(self.scores) >= 2:
            (first, e), (last, f) = self.scores[0], self.scores[-1]
            return last - first, max(2 * float(np.hypot(e, f)), LEAST_GAIN)
        reward = self.first_and_last("reward")
        return None if reward is None else (reward[1] - reward[0], LEAST_GAIN)

    def preferred(self, token: int) -> str:
        """What was written at one of the N tokens, and what the teacher finds most likely there."""
        wrote = self.text(int(self.ids[token]))
        if self.teacher_topk is None:
            return f"wrote {wrote}"
        top = self.text(int(self.teacher_topk[0][token, 0]))
        return f"wrote {wrote}, the teacher preferred {top}"

    def link(self, rollout: int, token: int, why: str) -> dict[str, Any]:
        """To one of the N tokens, which lies in one of the R rollouts."""
        row = self.tokens.rollouts[rollout]
        at = int(self.position[token])
        return {"id": row["id"], "step": row["step"], "position": at, "why": why}
