"""What the diagnosis of a run looks at: a fair share of its stored tokens, and its figures."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, RowMapping, select

from storage.lookups import run_fingerprint
from storage.read.run_tokens import RunTokens, Share, fair_share, run_tokens
from storage.schema import evaluation, rollout, step
from storage.vocabulary import Texts, read_texts

MAX_TOKENS = 100_000
KINDS = ("train", "import", "eval")  # the first of which there is any
COLUMNS = (
    *("completion_ids", "sampler_logprobs", "student_logprobs", "teacher_logprobs"),
    *("reverse_kl", "student_entropy", "teacher_entropy", "mask"),
    *("teacher_topk_ids", "teacher_topk_logprobs", "teacher_topk_other"),
)
PASS = "pass@1"
LEAST_GAIN = 0.02
TAG = re.compile(rb"\s*</?[a-z_]+>\s*$")
PART = re.compile(rb"\s*<\|?/?(think|thought|reason|tool|answer|box|im_start|start|begin)")
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Look:
    """N tokens of R rollouts of one kind, S steps and the scores of a run."""

    config: Mapping[str, Any]
    tokens: RunTokens
    texts: Texts
    steps: Mapping[str, Floats]  # (S,) a metric; NaN where a step lacks it
    scores: Sequence[tuple[float, float]]  # pass@1 of the first suite: value, standard error
    skipped: int = 0  # rollouts that a fair share leaves out

    def column(self, name: str) -> Floats | None:
        """(N,) in float64; None where some of the rollouts lack it."""
        found = self.tokens.columns.get(name)
        return None if found is None else found.astype(np.float64)

    @cached_property
    def choices(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None:
        """(N, k) each: the teacher's likeliest ids, its log-probabilities, the student's."""
        parts = [self.tokens.columns.get(f"teacher_topk_{n}") for n in ("ids", "logprobs", "other")]
        ids, logprobs, others = parts
        if ids is None or logprobs is None or others is None or not ids.shape[1]:
            return None
        return ids, logprobs, others

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        found = self.tokens.columns.get("completion_ids")
        return np.zeros(0, np.int64) if found is None else found.astype(np.int64)

    @cached_property
    def owner(self) -> NDArray[np.int64]:
        return self.tokens.owner

    @cached_property
    def position(self) -> NDArray[np.int64]:
        return self.tokens.position

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        """(R,): where each rollout's last token lies among the N."""
        return np.cumsum(self.tokens.lengths) - 1

    @cached_property
    def counts(self) -> Bools:
        """(N,): written by the student, and not masked out of the loss."""
        mask = self.tokens.columns.get("mask")
        own = self.own[self.owner]
        return own if mask is None else np.asarray(own & (mask > 0))

    @cached_property
    def own(self) -> Bools:
        """(R,): written by the student."""
        return np.array([r["author"] == "student" for r in self.tokens.rollouts], bool)

    @cached_property
    def stopped(self) -> Bools:
        """(R,): came to an end by itself, with at least one token."""
        ended = [r["finish_reason"] == "stop" for r in self.tokens.rollouts]
        return np.array(ended, bool) & (self.tokens.lengths > 0)

    @cached_property
    def late(self) -> Bools:
        """(R,): of the last third of the steps."""
        steps = np.array([r["step"] for r in self.tokens.rollouts], np.int64)
        known = np.unique(steps)
        first = known[-max(1, -(-len(known) // 3))] if len(known) else 0
        return np.asarray(steps >= first)

    @cached_property
    def kl(self) -> Floats | None:
        """(N,): reverse KL, or the log-ratio's size where the teacher gave no distribution."""
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
    def frame(self) -> Bools:
        """(N,): the first token of a completion, tags and special tokens, but not its end."""
        found: Bools = (self.position == 0) | self.is_special(self.ids) | self.is_tag(self.ids)
        found[self.ends[self.stopped]] = False
        return found

    def text(self, token_id: int) -> str:
        """An id with its text, for people."""
        if token_id not in self.texts:
            return f"{token_id}"
        return f"{self.texts[token_id][0].decode('utf-8', 'replace')!r:.42} (id {token_id})"

    def ends_of(self, name: str) -> tuple[float, float, int] | None:
        """Means of a step metric over the first and the last quarter, and how many steps it has."""
        values = self.steps.get(name)
        known = values[np.isfinite(values)] if values is not None else np.zeros(0)
        if len(known) < 2:
            return None
        quarter = max(1, len(known) // 4)
        return float(known[:quarter].mean()), float(known[-quarter:].mean()), len(known)

    @property
    def gain(self) -> tuple[float, float] | None:
        """How far the held-out score, else the reward, has risen, and what is beyond chance."""
        if len(self.scores) >= 2:
            (first, e), (last, f) = self.scores[0], self.scores[-1]
            return last - first, max(2 * float(np.hypot(e, f)), LEAST_GAIN)
        reward = self.ends_of("reward")
        return None if reward is None else (reward[1] - reward[0], LEAST_GAIN)

    def wanted(self, position: int) -> str:
        """What was written at one of the N tokens, and what the coach likes best there."""
        wrote = self.text(int(self.ids[position]))
        if self.choices is None:
            return f"wrote {wrote}"
        return f"wrote {wrote}, the coach wanted {self.text(int(self.choices[0][position, 0]))}"

    def link(self, number: int, position: int | None, why: str) -> dict[str, Any]:
        """A link to one of the R rollouts, `position` counted among the N tokens."""
        at = None if position is None else int(self.position[position])
        row = self.tokens.rollouts[number]
        return {"id": row["id"], "step": row["step"], "position": at, "why": why}


def look(connection: Connection, row: RowMapping) -> Look:
    """Reads what is needed of a run, given its row: a fair share of its tokens, about MAX_TOKENS
    at most."""
    run_id = row["id"]
    chosen = _chosen(connection, run_id)
    found = run_tokens(connection, COLUMNS, chosen.ids)
    used = [
        found.columns[name].ravel()
        for name in ("completion_ids", "teacher_topk_ids")
        if name in found.columns
    ]
    ids = np.unique(np.concatenate([np.zeros(0, np.int64), *used]).astype(np.int64))
    texts = read_texts(connection, run_fingerprint(row), [int(i) for i in ids])
    return Look(
        row["config"],
        found,
        texts,
        _steps(connection, run_id),
        _scores(connection, run_id),
        chosen.left_out,
    )


def _chosen(connection: Connection, run_id: str) -> Share:
    """The rollouts to look at: a share of those of the first of KINDS."""
    c = rollout.c
    present = connection.scalars(select(c.kind).where(c.run_id == run_id).distinct()).all()
    kind = next((k for k in KINDS if k in present), "")
    return fair_share(connection, [c.run_id == run_id, c.kind == kind], MAX_TOKENS)


def _steps(connection: Connection, run_id: str) -> dict[str, Floats]:
    rows = connection.scalars(
        select(step.c.metrics).where(step.c.run_id == run_id).order_by(step.c.step)
    ).all()
    names = {name for row in rows for name in row}
    return {n: np.array([_number(row.get(n)) for row in rows], np.float64) for n in names}


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _scores(connection: Connection, run_id: str) -> list[tuple[float, float]]:
    c = evaluation.c
    rows = connection.execute(
        select(c.suite, c.value, c.standard_error)
        .where(c.run_id == run_id, c.metric == PASS, c.value.is_not(None))
        .order_by(c.step, c.number)
    ).all()
    return [(row.value, row.standard_error or 0.0) for row in rows if row.suite == rows[0].suite]
