"""Who learns and who teaches: the sections of a run's configuration on models. Free of torch."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from opd.config.data import Column, Reference, Section, Template, choices, only_for
from opd.config.field_errors import FieldError

Dtype = Literal["float32", "bfloat16"]


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
        description="Who judges the student's tokens.",
        json_schema_extra=choices(
            model="A model of its own.",
            self="The student as it started; with an adapter, without a second copy.",
            ema="A moving average of the student.",
            remote="A server that returns prompt_logprobs, such as vLLM.",
            none="Nobody: for sft on given completions, and grpo.",
        ),
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
        0.99,
        ge=0,
        lt=1,
        description="Share of the moving average kept at each step (ema).",
        json_schema_extra=only_for("ema"),
    )
    dtype: Dtype = Field("float32", description="In which the teacher's weights are held.")
    quantize: Literal["none", "int8", "int4"] = Field(
        "none",
        description="Teacher's weights in 8 or 4 bits (needs the extra quantized).",
        json_schema_extra=only_for("model"),
    )
    offload: bool = Field(
        False,
        description="Keeps the teacher in host memory while it is not reading.",
        json_schema_extra=only_for("model"),
    )
    url: str | None = Field(
        None,
        max_length=2000,
        pattern=r"^https?://[^\s]+$",
        description="Base address of the server (remote), such as http://localhost:8000/v1.",
        json_schema_extra=only_for("remote"),
    )
    key_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$",
        description="Environment variable that holds the server's API key (remote).",
        json_schema_extra=only_for("remote"),
    )
    top_k: int = Field(
        20,
        ge=0,
        le=1024,
        description="prompt_logprobs asked for at each token (remote).",
        json_schema_extra=only_for("remote"),
    )
    timeout: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Seconds for one answer (remote).",
        json_schema_extra=only_for("remote"),
    )
    retries: int = Field(
        4,
        ge=0,
        le=100,
        description="Further tries after a failed request (remote).",
        json_schema_extra=only_for("remote"),
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "RouteConfig":
        if self.kind == "remote" and self.url is None:
            raise FieldError("url", "a remote teacher needs its server's address")
        if self.kind != "remote" and self.url is not None:
            raise FieldError("url", f"only a remote teacher has one (kind is {self.kind})")
        if self.kind != "model" and self.quantize != "none":
            raise FieldError("quantize", f"only kind model is loaded (kind is {self.kind})")
        if self.kind != "model" and self.offload:
            raise FieldError("offload", f"only kind model is loaded (kind is {self.kind})")
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
            raise FieldError("route_by", "routes need the name of the field that decides")
        if self.routes and any(t.kind in ("none", "ema") for t in (self, *self.routes.values())):
            raise FieldError("routes", "each teacher must be of kind model, self or remote")
        return self
