"""The sections of a run's configuration, each field with its bounds and help. Free of torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from opd.data_settings import Column, Reference, Section, SuiteConfig, Template

Share = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["float32", "bfloat16"]
Need = Literal["vocabulary", "top_k", "sampled", "nothing"]

# What each objective needs to know of the teacher at a token: all of its distribution, its
# likeliest tokens, its opinion of the sampled token, or nothing.
OBJECTIVE_NEEDS: dict[str, Need] = {
    "reverse_kl": "vocabulary",
    "forward_kl": "vocabulary",
    "jsd": "vocabulary",
    "skewed_kl": "vocabulary",
    "entropy_aware": "vocabulary",
    "student_top_k": "vocabulary",
    "teacher_top_k": "top_k",
    "policy_gradient": "sampled",
    "sft": "nothing",
    "grpo": "nothing",
}


class LoraConfig(Section):
    rank: int = Field(32, ge=1, le=1024, description="Rank of the adapter's matrices.")
    alpha: float = Field(64.0, gt=0, le=4096, description="Scale of the adapter: alpha / rank.")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear", description="Module names that get an adapter, or all-linear."
    )


class StudentConfig(Section):
    model: Reference = Field(
        "bundled/student",
        description="The model that is trained: bundled/student, a local folder, a hub id, or "
        "another run (run-…, or run-…@STEP).",
    )
    lora: LoraConfig | None = Field(
        None, description="Train a low-rank adapter instead of all weights."
    )
    dtype: Dtype = Field(
        "float32",
        description="bfloat16: computes in bfloat16; trained weights stay in float32.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Computes each layer twice instead of keeping its activations."
    )


class RouteConfig(Section):
    """One teacher."""

    kind: Literal["model", "self", "ema", "remote", "none"] = Field(
        "model",
        description="model: the one named below. self: the student as it started. ema: a moving "
        "average of the student. remote: a server that returns prompt_logprobs. none: no teacher.",
    )
    model: Reference = Field(
        "bundled/teacher",
        description="bundled/teacher, a folder, a hub id or another run (run-…, run-…@STEP); the "
        "served model's name (remote).",
    )
    prompt: Template | None = Field(
        None,
        description="What the teacher reads in the prompt's place, over the row's fields: "
        "'Hint: {answer}. {prompt}'. In a chat, in place of the last user message.",
    )
    system: Template | None = Field(
        None, description="A system message for the teacher alone (chat prompts), over the fields."
    )
    ema_decay: float = Field(
        0.99, ge=0, lt=1, description="Share of the moving average kept at each step (ema)."
    )
    dtype: Dtype = Field("float32", description="In which the teacher's weights are held.")
    quantize: Literal["none", "int8", "int4"] = Field(
        "none", description="Teacher's weights in 8 or 4 bits (needs the extra quantized)."
    )
    offload: bool = Field(
        False, description="Keeps the teacher in host memory while it is not reading."
    )
    url: str | None = Field(
        None,
        max_length=2000,
        pattern=r"^https?://[^\s]+$",
        description="Base address of the server (remote), such as http://localhost:8000/v1.",
    )
    key_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$",
        description="Environment variable that holds the server's API key (remote).",
    )
    top_k: int = Field(
        20, ge=0, le=1024, description="prompt_logprobs asked for at each token (remote)."
    )
    timeout: float = Field(60.0, gt=0, le=3600, description="Seconds for one answer (remote).")
    retries: int = Field(
        4, ge=0, le=100, description="Further tries after a failed request (remote)."
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "RouteConfig":
        if self.kind == "remote" and self.url is None:
            raise ValueError("url: a remote teacher needs its server's address")
        if self.kind != "remote" and self.url is not None:
            raise ValueError(f"url: only a remote teacher has one (kind is {self.kind})")
        if self.kind != "model" and self.quantize != "none":
            raise ValueError(f"quantize: only kind model is loaded (kind is {self.kind})")
        if self.kind != "model" and self.offload:
            raise ValueError(f"offload: only kind model is loaded (kind is {self.kind})")
        return self


class TeacherConfig(RouteConfig):
    route_by: Column | None = Field(
        None, description="Field of the prompt's row that decides which of the routes reads it."
    )
    routes: dict[str, RouteConfig] = Field(
        default_factory=dict,
        max_length=16,
        description="Other teachers by that field's value; rows of other values get this one.",
    )

    @field_validator("routes", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"model": v} if isinstance(v, str) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _routes_need_a_field(self) -> "TeacherConfig":
        if self.routes and self.route_by is None:
            raise ValueError("route_by: routes need the name of the field that decides")
        if self.routes and any(t.kind in ("none", "ema") for t in (self, *self.routes.values())):
            raise ValueError("routes: each teacher must be of kind model, self or remote")
        return self


class WeightingConfig(Section):
    """How much each token counts."""

    prefix_share: float = Field(
        1.0, gt=0, le=1, description="Only this first share of each completion is trained."
    )
    skip_special: bool = Field(False, description="Special tokens, the end included, do not count.")
    kl_clip: float | None = Field(
        None, gt=0, le=1000, description="Limit of a token's loss or advantage, in nats."
    )


class ObjectiveConfig(Section):
    name: Literal[
        "reverse_kl",
        "forward_kl",
        "jsd",
        "skewed_kl",
        "entropy_aware",
        "student_top_k",
        "teacher_top_k",
        "policy_gradient",
        "sft",
        "grpo",
    ] = Field(
        "reverse_kl",
        description="reverse_kl: KL(student‖teacher), exact, over the whole vocabulary. "
        "forward_kl: KL(teacher‖student). jsd: between both, by beta. skewed_kl: against a mixture "
        "of both. entropy_aware: reverse KL where the teacher is sure, forward where it is not. "
        "student_top_k, teacher_top_k: reverse KL over that model's likeliest tokens and one "
        "bucket for the rest. policy_gradient: the sampled token's log-ratio as advantage. sft: "
        "likelihood of completions. grpo: reward alone, relative to the group.",
    )
    reduction: Literal["token_mean", "sequence_mean", "sum"] = Field(
        "token_mean",
        description="token_mean: over the step's tokens that count. sequence_mean: over each "
        "completion, then over completions. sum: neither.",
    )
    coefficient: float = Field(
        1.0, gt=0, le=1000, description="Weight of the advantage (policy_gradient)."
    )
    clip: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Clip of the importance ratio to 1 ± this (policy_gradient, grpo).",
    )
    gamma: float = Field(
        0.0, ge=0, le=1, description="Discount of later tokens' log-ratios (policy_gradient)."
    )
    beta: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Of jsd: 0 is the forward KL, 1 the reverse KL, between them the mixture "
        "(1 − β) student + β teacher.",
    )
    skew: float = Field(
        0.1, ge=0, lt=1, description="Share of the student in the teacher's mixture (skewed_kl)."
    )
    top_k: int = Field(
        32, ge=1, le=4096, description="Tokens besides the bucket (student_top_k, teacher_top_k)."
    )
    entropy_threshold: float = Field(
        0.8, ge=0, le=100, description="Teacher's entropy, in nats, from which on it is not sure."
    )
    reward_weight: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Weight of a policy gradient on the reward, relative to the group, beside the "
        "objective.",
    )
    normalize_reward: bool = Field(
        True, description="Divides the group's rewards by their standard deviation."
    )
    reference_kl: float = Field(
        0.0, ge=0, le=1000, description="Weight of the KL to the student's start (grpo)."
    )
    weighting: WeightingConfig = Field(default_factory=WeightingConfig)  # type: ignore[arg-type]


class SamplingConfig(Section):
    prompts_per_step: int = Field(32, ge=1, le=4096, description="Prompts in one step.")
    group_size: int = Field(4, ge=1, le=1024, description="Completions of each prompt.")
    max_new_tokens: int = Field(64, ge=1, le=131_072, description="Limit of a completion's length.")
    temperature: float = Field(
        1.0, gt=0, le=10, description="Of student and teacher alike, sampling and scoring."
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Rollouts decoded together.")
    source: Literal["auto", "student", "teacher", "given"] = Field(
        "auto",
        description="Who writes the completions; given: the data. auto: the teacher for sft, else "
        "the student.",
    )
    teacher_share: Share = Field(
        0.0, description="Share of prompts whose completions the teacher writes, of the student's."
    )


class OptimizerConfig(Section):
    name: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="adamw_8bit keeps its moments in 8 bits (needs the extra quantized)."
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Of AdamW.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Of AdamW, decoupled.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of AdamW's first moment.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of AdamW's second moment.")
    warmup_steps: int = Field(0, ge=0, le=100_000, description="Steps of linear warm-up.")
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="Limit of the gradient's norm.")
    micro_batch_tokens: int = Field(
        8192, ge=64, le=10_000_000, description="Tokens of one forward and backward pass."
    )


class EvaluationConfig(Section):
    every: int = Field(
        0, ge=0, le=1_000_000, description="Steps between evaluations; 0: first and last only."
    )
    prompts: int = Field(200, ge=1, le=100_000, description="Held-out prompts evaluated.")
    temperatures: list[Annotated[float, Field(ge=0, le=10)]] = Field(
        [1.0, 0.0], min_length=1, max_length=8, description="One evaluation at each; 0 is greedy."
    )
    samples: int = Field(
        1, ge=1, le=1024, description="Completions of each prompt, above temperature 0."
    )
    pass_at: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        [1], min_length=1, max_length=8, description="Each k of pass@k; at most samples."
    )
    keep: int = Field(16, ge=0, le=10_000, description="Evaluated rollouts kept with their tokens.")
    suites: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")], SuiteConfig] = (
        Field(
            default_factory=dict,
            max_length=16,
            description="Further prompts by name, evaluated with the held-out ones.",
        )
    )
    lm_eval: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        [], max_length=32, description="Tasks of lm-eval before and after (extra lm-eval)."
    )
    lm_eval_limit: int | None = Field(
        None, ge=1, le=1_000_000, description="Examples of each such task; empty: all."
    )

    @field_validator("suites", mode="before")
    @classmethod
    def _by_source(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {k: {"source": v} if isinstance(v, str) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluationConfig":
        if max(self.pass_at) > self.samples:
            raise ValueError(
                f"pass_at: pass@{max(self.pass_at)} needs that many samples (samples is "
                f"{self.samples})"
            )
        return self


class RecordsConfig(Section):
    every: int = Field(1, ge=1, le=1_000_000, description="Steps between kept token records.")
    rollouts_per_step: int = Field(
        128, ge=0, le=100_000, description="Rollouts kept of each such step."
    )
    top_k: int = Field(8, ge=0, le=64, description="Alternatives kept a token, of each model.")
    hot_tokens: int = Field(3, ge=0, le=64, description="Worst tokens indexed of each rollout.")
    budget_mb: int = Field(
        1000,
        ge=1,
        le=10_000_000,
        description="Limit of the run's token records; each step keeps its share of it.",
    )


class CheckpointsConfig(Section):
    every: int = Field(
        0, ge=0, le=1_000_000, description="Steps between checkpoints; 0: at the end only."
    )
    keep: int = Field(2, ge=1, le=1000, description="The newest kept; older ones are removed.")
    best: bool = Field(
        True, description="Also keeps the one with the best held-out score, where there is one."
    )
