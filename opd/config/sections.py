"""The sections of a run's configuration, each field with its bounds and help. Free of torch."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, field_validator, model_validator

from opd.config.data import Section, SuiteConfig, choices, only_for
from opd.config.field_errors import FieldError
from opd.loss.objective import Parameter
from opd.loss.objective_table import OBJECTIVES, PARAMETERS, TRAINABLE, owners

Share = Annotated[float, Field(ge=0, le=1)]
Reduction = Literal["token_mean", "sequence_mean", "sum"]


class WeightingConfig(Section):
    """How much each token counts."""

    prefix_share: float = Field(
        1.0, gt=0, le=1, description="Only this first share of each completion is trained."
    )
    skip_special: bool = Field(False, description="Special tokens, the end included, do not count.")
    kl_clip: float | None = Field(
        None, gt=0, le=1000, description="Limit of a token's loss or advantage, in nats."
    )


class _Choice(Section):
    """What every objective has; its name is one of the table's."""

    name: str = Field(
        "reverse_kl",
        description="Loss of a token.",
        json_schema_extra=choices(**{name: OBJECTIVES[name].help for name in TRAINABLE}),
    )
    reduction: Reduction = Field(
        "token_mean",
        description="How token losses are reduced to one number.",
        json_schema_extra=choices(
            token_mean="Mean over the step's tokens that count.",
            sequence_mean="Mean over each completion, then over completions.",
            sum="Sum; the effective learning rate then depends on the batch.",
        ),
    )


def _field_of(parameter: Parameter) -> Any:
    names = [name for name in owners(parameter) if name in TRAINABLE]
    return Field(
        parameter.default,
        description=f"{parameter.help} ({', '.join(names)}).",
        json_schema_extra=only_for(*names),
        **parameter.limits,
    )


if TYPE_CHECKING:
    _WithParameters = _Choice
else:
    _WithParameters = create_model(
        "_WithParameters",
        __base__=_Choice,
        name=(Literal[TRAINABLE], _Choice.model_fields["name"]),
        **{
            name: (
                parameter.kind if parameter.default is not None else parameter.kind | None,
                _field_of(parameter),
            )
            for name, parameter in PARAMETERS.items()
        },
    )


class ObjectiveConfig(_WithParameters):
    """What is trained. The parameters of single objectives come from the table."""

    reward_weight: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="Weight of a policy gradient on the reward, relative to the group, beside the "
        "objective.",
    )
    normalize_reward: bool = Field(
        True, description="Divide the group's rewards by their standard deviation."
    )
    weighting: WeightingConfig = Field(default_factory=WeightingConfig)  # type: ignore[arg-type]

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    @property
    def uses_rewards(self) -> bool:
        return OBJECTIVES[self.name].rewards or self.reward_weight > 0


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
            raise FieldError(
                "pass_at",
                f"pass@{max(self.pass_at)} needs that many samples (samples is {self.samples})",
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
