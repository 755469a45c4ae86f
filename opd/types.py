"""What passes between the trainer, the store and the command line. Free of torch.

Notation: T completion tokens of one rollout, k alternatives per token. All log-probabilities are
natural logarithms (nats) of the full distribution at the rollout's temperature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

Kind = Literal["train", "eval", "probe", "branch", "import"]
FinishReason = Literal["stop", "length"]
Author = Literal["student", "teacher", "given"]  # who wrote a completion
RunStatus = Literal["queued", "running", "finished", "failed", "cancelled", "interrupted"]
ExperimentStatus = Literal["running", "finished", "failed", "cancelled", "stopped"]
HELD_OUT = "heldout"  # the suite of the held-out prompts

# The quantities of a TokenRecord in nats, (T,) each
FLOAT_COLUMNS = (
    "sampler_logprobs",
    "student_logprobs",
    "teacher_logprobs",
    "reverse_kl",
    "student_entropy",
    "teacher_entropy",
    "advantages",
)
# Everything of a TokenRecord that has one number per token, in the order in which files have it
TOKEN_COLUMNS = (*FLOAT_COLUMNS[:-1], "teacher_rank", "advantages", "mask")


@dataclass(frozen=True)
class TopK:
    """The k likeliest ids of one model at each token, with both models' opinion of them."""

    ids: Ints  # (T, k), likeliest first
    logprobs: Floats  # (T, k), by the model whose top-k this is
    other_logprobs: Floats | None  # (T, k), by the other model, at the same ids
    tail_mass: Floats  # (T,), probability outside the k ids


@dataclass(frozen=True)
class TokenRecord:
    """Every per-token quantity of one rollout; None where it was not computed."""

    completion_ids: Ints  # (T,), EOS included when it was sampled
    sampler_logprobs: Floats | None = None
    student_logprobs: Floats | None = None
    teacher_logprobs: Floats | None = None
    reverse_kl: Floats | None = None  # exact, over the whole vocabulary
    student_entropy: Floats | None = None
    teacher_entropy: Floats | None = None
    teacher_rank: Ints | None = None  # 0: the teacher's likeliest token
    advantages: Floats | None = None  # as trained; None where the objective has none
    mask: Floats | None = None  # weight in the loss; 0 does not count
    student_topk: TopK | None = None
    teacher_topk: TopK | None = None

    def __len__(self) -> int:
        return len(self.completion_ids)


@dataclass(frozen=True)
class Mark:
    """A note on a token of a completion; on the whole rollout where `position` is None."""

    position: int | None
    note: str


@dataclass(frozen=True)
class Rollout:
    """A prompt, one sampled completion, and its token record."""

    step: int
    kind: Kind
    group: int  # the prompt's number in the run's prompt set
    sample: int  # 0 … group_size − 1
    prompt: str
    prompt_ids: Ints
    completion: str
    finish_reason: FinishReason
    temperature: float
    record: TokenRecord
    reward: float | None = None
    answer: str | None = None
    author: Author = "student"
    teacher_end: str | None = None  # token that the teacher read in place of the stop id
    staleness: int | None = None  # updates between the weights that wrote it and those it trained
    teacher: str | None = None  # who judged: its section's path, of an import its name
    teacher_prompt: str | None = None  # as rendered, where it is not the student's
    data_row: Mapping[str, Any] | None = None  # see records.data_row; None: not recorded
    marks: Sequence[Mark] = ()  # that people have put on it
    # Each token's text, for records whose tokenizer is not at hand
    prompt_tokens: Sequence[str] | None = None
    completion_tokens: Sequence[str] | None = None


@dataclass(frozen=True)
class StepEvent:
    """One optimizer update. `rollouts` are those chosen for keeping."""

    step: int
    seconds: Mapping[str, float]  # by phase, without "store", which the store adds
    tokens: int  # completion tokens sampled
    flops: float  # executed, by the cost formula
    metrics: Mapping[str, float]
    rollouts: Sequence[Rollout] = ()


@dataclass(frozen=True)
class Score:
    """One figure of an evaluation, with its standard error."""

    suite: str
    metric: str
    value: float
    n: int
    standard_error: float


@dataclass(frozen=True)
class EarlierAttempts:
    """What a run had taken and reached before this attempt, up to the step where this one begins.

    seconds: of wall time. evaluations: their scores by step.
    """

    seconds: float = 0.0
    evaluations: Mapping[int, Sequence[Score]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationEvent:
    step: int
    scores: Sequence[Score]
    rollouts: Sequence[Rollout] = ()


@dataclass(frozen=True)
class CheckpointEvent:
    """A complete folder on disk; `manifest` maps file name to SHA-256.

    `keeps` names the earlier checkpoints' steps that stay; the others are about to be removed.
    """

    step: int
    path: str
    manifest: Mapping[str, str]
    keeps: Sequence[int] = ()


@dataclass(frozen=True)
class PhaseEvent:
    """What the run is doing before and between its steps, for people who wait."""

    text: str


@dataclass(frozen=True)
class EndEvent:
    """The run ends before its last step, by its own setting; everything is saved."""

    reason: str


@dataclass(frozen=True)
class ModelsEvent:
    """What was loaded: local folders, tokenizer, sizes."""

    resolved: Mapping[str, str]  # {"student": folder, "teacher": folder}
    tokenizer: str  # fingerprint
    device: str
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class MissingPrompts:
    """Prompts that were asked for and are not used, all for one reason: `text` follows the count,
    `remedy` says what to change."""

    reason: str  # source, eval_share, probes, too_long, no_answer
    count: int
    text: str
    remedy: str


@dataclass(frozen=True)
class EvaluationCount:
    """How many prompts of an evaluation were asked for in `field`, and how many its scores count:
    asked = used + all that is missing."""

    suite: str
    field: str
    asked: int
    used: int
    missing: Sequence[MissingPrompts] = ()

    @property
    def what(self) -> str:
        return "held-out prompts" if self.suite == HELD_OUT else f"prompts of {self.suite}"

    @property
    def reasons(self) -> str:
        """Why fewer than asked for; empty where all are used."""
        return "; ".join(f"{m.count:,} {m.text}" for m in self.missing)

    def __str__(self) -> str:
        of = f"{self.used:,} of {self.asked:,}" if self.missing else f"{self.used:,}"
        return f"{of} {self.what}" + (f" ({self.reasons})" if self.missing else "")


@dataclass(frozen=True)
class PromptsEvent:
    """Which prompts were loaded: how many to train on, and those of each evaluation."""

    train: int
    evaluation: Sequence[EvaluationCount]


Event = (
    StepEvent
    | EvaluationEvent
    | CheckpointEvent
    | PhaseEvent
    | ModelsEvent
    | PromptsEvent
    | EndEvent
)
