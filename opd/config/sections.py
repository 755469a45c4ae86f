"""The sections of a run's configuration, each field with its bounds and help. Free of torch."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, create_model, model_validator

from opd.config.data import Section, SuiteConfig, choices, only_for
from opd.config.field_errors import FieldError
from opd.loss.objective import Parameter
from opd.loss.objective_table import OBJECTIVES, PARAMETERS, TRAINABLE, owners

Share = Annotated[float, Field(ge=0, le=1)]
TOKENS_PER_PASS = 8192  # of a micro-batch, where no setting and no GPU says otherwise
Reduction = Literal["token_mean", "sequence_mean", "sum"]


class WeightingConfig(Section):
    """How much each token counts."""

    prefix_share: float = Field(
        1.0, gt=0, le=1, description="Train only on this leading fraction of each completion."
    )
    skip_special: bool = Field(
        False, description="Exclude special tokens, EOS included, from the loss."
    )
    kl_clip: float | None = Field(
        None, gt=0, le=1000, description="Maximum loss or advantage of a token, in nats."
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
        description="Weight of an added policy gradient on the reward relative to the group.",
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
    prompts_per_step: int = Field(32, ge=1, le=4096, description="Prompts per step.")
    group_size: int = Field(4, ge=1, le=1024, description="Completions per prompt.")
    max_new_tokens: int = Field(
        64, ge=1, le=131_072, description="Maximum completion length in tokens."
    )
    temperature: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Sampling temperature; student and teacher are scored at the same one.",
    )
    batch_size: int = Field(64, ge=1, le=4096, description="Rollouts decoded in one batch.")
    source: Literal["auto", "student", "teacher", "given"] = Field(
        "auto",
        description="Who writes the completions; given: they come with the data.",
        json_schema_extra=choices(
            auto="The teacher for sft, else the student.",
            student="The student.",
            teacher="The teacher.",
            given="The data set (prompts.columns.completion).",
        ),
    )
    stop_ids: list[Annotated[int, Field(ge=0, le=10_000_000)]] = Field(
        [],
        max_length=64,
        description="Additional stop token ids.",
        examples=[[151645, 151643]],
    )
    teacher_share: Share = Field(
        0.0,
        description="Fraction of prompts for which the teacher, not the student, writes the "
        "completions.",
    )
    engine: Literal["local", "vllm"] = Field(
        "local",
        description="What computes the student's completions.",
        json_schema_extra=choices(
            local="The training process itself.",
            vllm="A vLLM server: that of url, else one that is started for the run, by the Python "
            "that OPD_VLLM_PYTHON names where the job runs (docs/engines.md).",
        ),
    )
    lag: int = Field(
        0,
        ge=0,
        le=1,
        description="1: the next step's completions are written while this one trains, by weights "
        "of one step before those that they train (vllm).",
        json_schema_extra=only_for("vllm"),
    )
    url: str | None = Field(
        None,
        max_length=2000,
        pattern=r"^(https?://|unix:/)[^\s]+$",
        description="Address of a vLLM server of your own, such as http://localhost:8000 or "
        "unix:/run/user/1000/vllm, that takes the student's weights (vllm; docs/engines.md).",
        json_schema_extra=only_for("vllm"),
    )
    key_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$",
        description="Environment variable with that server's API key (vllm).",
        json_schema_extra=only_for("vllm"),
    )

    @model_validator(mode="after")
    def _only_a_server_has_an_address(self) -> "SamplingConfig":
        for field in ("url", "key_variable"):
            if getattr(self, field) is not None and self.engine != "vllm":
                raise FieldError(field, f"only engine vllm has one (engine is {self.engine})")
        if self.key_variable is not None and self.url is None:
            raise FieldError("key_variable", "is the key of the server at url, which is empty")
        return self


class OptimizerConfig(Section):
    name: Literal["adamw", "adamw_8bit"] = Field(
        "adamw",
        description="adamw_8bit stores its moments in 8 bits (needs the extra quantized).",
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Peak learning rate.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay rate of the first moment.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay rate of the second moment.")
    warmup_steps: int = Field(0, ge=0, le=100_000, description="Linear warmup steps.")
    decay: Literal["none", "linear", "cosine"] = Field(
        "none",
        description="Learning rate schedule after the warmup.",
        json_schema_extra=choices(
            none="Constant.",
            linear="Linear to 0.",
            cosine="Cosine to 0.",
        ),
    )
    max_grad_norm: float = Field(1.0, gt=0, le=1e6, description="Maximum gradient norm.")
    micro_batch_tokens: int | None = Field(
        None,
        ge=64,
        le=10_000_000,
        description="Tokens per forward and backward pass; empty: as many as the GPU's memory "
        f"holds, {TOKENS_PER_PASS:,} elsewhere.",
    )

    compile: bool | None = Field(
        None,
        description="Compile what the update computes (torch.compile): fewer, larger kernels after "
        "a start of a minute or so; empty: on a GPU, where the run is long enough to gain by it.",
    )

    @property
    def tokens_per_pass(self) -> int:
        """What is set, or what is taken where nothing is measured."""
        return self.micro_batch_tokens or TOKENS_PER_PASS


class EvaluationConfig(Section):
    every: int = Field(
        0, ge=0, le=1_000_000, description="Steps between evaluations; 0: only first and last."
    )
    prompts: int = Field(
        200, ge=1, le=100_000, description="Number of held-out prompts to evaluate."
    )
    temperatures: list[Annotated[float, Field(ge=0, le=10)]] = Field(
        [1.0, 0.0],
        min_length=1,
        max_length=8,
        description="Evaluate at each of these temperatures; 0 is greedy.",
        examples=[[1, 0.6, 0]],
    )
    samples: int = Field(
        1, ge=1, le=1024, description="Completions per prompt at temperatures above 0."
    )
    pass_at: list[Annotated[int, Field(ge=1, le=1024)]] = Field(
        [1],
        min_length=1,
        max_length=8,
        description="Values of k for pass@k; at most samples.",
        examples=[[1, 8]],
    )
    keep: int = Field(
        16, ge=0, le=10_000, description="Evaluation rollouts to store with their tokens."
    )
    suites: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")], SuiteConfig] = (
        Field(
            default_factory=dict,
            max_length=16,
            description="Additional evaluation sets, by name.",
        )
    )
    teacher: bool | None = Field(
        None,
        description="Evaluate the teacher too, once, on the held-out prompts before training; "
        "empty: where answers are graded and every teacher is a model on this machine.",
    )
    lm_eval: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(
        [],
        max_length=32,
        description="lm-eval tasks to run before and after training (needs the extra lm-eval).",
        examples=[["gsm8k", "arc_easy"]],
    )
    lm_eval_limit: int | None = Field(
        None, ge=1, le=1_000_000, description="Examples per lm-eval task; empty: all."
    )

    @model_validator(mode="after")
    def _enough_samples(self) -> "EvaluationConfig":
        if max(self.pass_at) > self.samples:
            raise FieldError(
                "pass_at",
                f"pass@{max(self.pass_at)} needs that many samples (samples is {self.samples})",
            )
        return self


class RecordsConfig(Section):
    every: int = Field(
        1, ge=1, le=1_000_000, description="Store token records every this many steps."
    )
    rollouts_per_step: int = Field(
        128, ge=0, le=100_000, description="Rollouts to store per recorded step."
    )
    top_k: int = Field(8, ge=0, le=64, description="Alternatives to store per token and model.")
    hot_tokens: int = Field(3, ge=0, le=64, description="Highest-KL tokens to index per rollout.")
    budget_mb: int = Field(
        1000,
        ge=1,
        le=10_000_000,
        description="Maximum size of the run's token records in MB, divided evenly over the steps.",
    )


class StopConfig(Section):
    """When a run ends before its last step; each is looked at after a step and its evaluation."""

    minutes: float | None = Field(
        None,
        gt=0,
        le=10_000_000,
        description="End once the run has taken this many minutes, over all of its attempts.",
    )
    score: float | None = Field(
        None,
        gt=0,
        le=1,
        description="End once the held-out score is at least this: pass@1 at the first of "
        "evaluation.temperatures.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="End after this many evaluations in a row whose held-out score is not above "
        "the best one before them, the one before training included.",
    )


class CheckpointsConfig(Section):
    every: int = Field(
        0, ge=0, le=1_000_000, description="Steps between checkpoints; 0: only at the end."
    )
    keep: int = Field(2, ge=1, le=1000, description="Number of recent checkpoints to keep.")
    best: bool = Field(True, description="Also keep the checkpoint with the best held-out score.")
