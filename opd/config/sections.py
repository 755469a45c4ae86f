"""The sections of a run's configuration, each field with its bounds and help. Free of torch."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from opd.config.data import Section, SuiteConfig, choices, only_for

Share = Annotated[float, Field(ge=0, le=1)]
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
        description="The loss of a token.",
        json_schema_extra=choices(
            reverse_kl="KL(student‖teacher), exact, over the whole vocabulary.",
            forward_kl="KL(teacher‖student), exact, over the whole vocabulary.",
            jsd="Between both KLs, by beta, over the whole vocabulary.",
            skewed_kl="KL(student‖mixture of both), which stays bounded.",
            entropy_aware="Reverse KL where the teacher is sure, forward KL where it is not.",
            student_top_k="Reverse KL over the student's likeliest tokens and one bucket.",
            teacher_top_k="Reverse KL over the teacher's likeliest tokens and one bucket; enough "
            "for a teacher behind a server.",
            policy_gradient="The sampled token's log-ratio as advantage, importance sampled.",
            sft="The likelihood of completions that the teacher or the data wrote.",
            grpo="Reward alone, relative to the group; the teacher is not asked.",
        ),
    )
    reduction: Literal["token_mean", "sequence_mean", "sum"] = Field(
        "token_mean",
        description="How tokens become one number.",
        json_schema_extra=choices(
            token_mean="Mean over the step's tokens that count.",
            sequence_mean="Mean over each completion, then over completions.",
            sum="Sum; the learning rate then depends on the batch.",
        ),
    )
    coefficient: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="Weight of the advantage (policy_gradient).",
        json_schema_extra=only_for("policy_gradient"),
    )
    clip: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Clip of the importance ratio to 1 ± this (policy_gradient, grpo).",
        json_schema_extra=only_for("policy_gradient", "grpo"),
    )
    gamma: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Discount of later tokens' log-ratios (policy_gradient).",
        json_schema_extra=only_for("policy_gradient"),
    )
    beta: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Of jsd: 0 is the forward KL, 1 the reverse KL, between them the mixture "
        "(1 − β) student + β teacher.",
        json_schema_extra=only_for("jsd"),
    )
    skew: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of the student in the teacher's mixture (skewed_kl).",
        json_schema_extra=only_for("skewed_kl"),
    )
    top_k: int = Field(
        32,
        ge=1,
        le=4096,
        description="Tokens besides the bucket (student_top_k, teacher_top_k).",
        json_schema_extra=only_for("student_top_k", "teacher_top_k"),
    )
    entropy_threshold: float = Field(
        0.8,
        ge=0,
        le=100,
        description="Teacher's entropy, in nats, from which on it is not sure.",
        json_schema_extra=only_for("entropy_aware"),
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
        0.0,
        ge=0,
        le=1000,
        description="Weight of the KL to the student's start (grpo).",
        json_schema_extra=only_for("grpo"),
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
    stop_ids: list[Annotated[int, Field(ge=0, le=10_000_000)]] = Field(
        [], max_length=64, description="Further token ids that end a completion."
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
    decay: Literal["none", "linear", "cosine"] = Field(
        "none",
        description="How the learning rate falls after the warm-up.",
        json_schema_extra=choices(
            none="It stays.",
            linear="Evenly, to 0 after the last step.",
            cosine="As half a cosine, to 0 after the last step.",
        ),
    )
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
