"""Student and teacher: the sections of a run's configuration on models. Free of torch."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from opd.config.data import Column, Reference, Section, Template, choices, only_for
from opd.config.field_errors import FieldError

Dtype = Literal["float32", "bfloat16"]
Quantize = Literal["none", "int8", "int4"]
MOST_LIKELIEST = 1024  # tokens that a server is asked for at a position


class LoraConfig(Section):
    rank: int = Field(32, ge=1, le=1024, description="Adapter rank.")
    alpha: float = Field(64.0, gt=0, le=4096, description="Adapter scale is alpha / rank.")
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description="Names of the modules to adapt, or all-linear.",
        examples=[["q_proj", "v_proj"]],
    )


class StudentConfig(Section):
    model: Reference = Field(
        "bundled/student",
        description="Model to train: bundled/student, bundled/smollm2, a local folder or GGUF "
        "file, a hub id, or another run (run-… or run-…@STEP).",
    )
    lora: LoraConfig | None = Field(
        None, description="Train a low-rank adapter instead of all weights."
    )
    dtype: Dtype = Field(
        "float32",
        description="Compute precision. On a GPU products of float32 are rounded to TF32.",
    )
    weights: Dtype = Field(
        "float32",
        description="Precision in which trained weights, gradients and moments are held. bfloat16 "
        "takes 8 instead of 16 bytes per parameter and has 8 bits of precision: updates are "
        "rounded up or down at random, gradients of micro-batches add up with rounding.",
    )
    quantize: Quantize = Field(
        "none",
        description="Quantize the student's frozen weights to 8 or 4 bits and train the adapter "
        "(QLoRA; needs lora and the extra quantized).",
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="Recompute activations in the backward pass (less memory, slower); empty: on a "
        "GPU whose memory would not hold one row, if micro_batch_tokens is empty, too.",
    )

    @model_validator(mode="after")
    def _only_an_adapter_on_quantized_weights(self) -> "StudentConfig":
        if self.quantize != "none" and self.lora is None:
            raise FieldError("quantize", "quantized weights stay as they are: set lora, too")
        return self

    @model_validator(mode="after")
    def _bfloat16_throughout(self) -> "StudentConfig":
        if self.weights == "bfloat16" and self.lora is not None:
            raise FieldError(
                "weights", "an adapter is held in float32: leave out bfloat16, or lora"
            )
        if self.weights == "bfloat16" and self.dtype != "bfloat16":
            raise FieldError(
                "weights",
                f"bfloat16 weights compute in bfloat16: set dtype, too (got {self.dtype})",
            )
        return self


class RouteConfig(Section):
    """One teacher."""

    kind: Literal["model", "self", "ema", "remote", "none"] = Field(
        "model",
        description="Who judges the student's tokens.",
        json_schema_extra=choices(
            model="A separate model.",
            self="The student as it started; with LoRA, no second copy in memory.",
            ema="An exponential moving average of the student.",
            remote="A server that returns prompt_logprobs, such as vLLM.",
            none="No teacher: for sft on given completions, and for grpo.",
        ),
    )
    model: Reference = Field(
        "bundled/teacher",
        description="bundled/teacher, a local folder or GGUF file, a hub id, or another run (run-… "
        "or run-…@STEP); the name under which a server has it (remote).",
    )
    engine: Literal["local", "vllm"] = Field(
        "local",
        description="What computes the judgement of a separate model (model).",
        json_schema_extra=choices(
            local="The training process itself.",
            vllm="A vLLM server that is started for the run, by the Python that OPD_VLLM_PYTHON "
            "names where the job runs (docs/engines.md); gives the top_k likeliest tokens.",
        )
        | only_for("model"),
    )
    prompt: Template | None = Field(
        None,
        description="Template of what the teacher reads instead of the prompt, over fields of the "
        "row: 'Hint: {answer}. {prompt}'. In a chat it replaces the last user message.",
    )
    system: Template | None = Field(
        None,
        description="Template of a system message that only the teacher reads (chat prompts).",
    )
    end_token: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="Token with which this teacher ends its messages, such as <|im_end|>; shown to "
        "it in place of the student's stop token. For a base student with a chat teacher.",
        json_schema_extra=only_for("model", "remote"),
    )
    ema_decay: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay of the moving average per step (ema).",
        json_schema_extra=only_for("ema"),
    )
    dtype: Literal["student", "float32", "bfloat16"] = Field(
        "student", description="Precision of the teacher's weights; student: that of student.dtype."
    )
    quantize: Quantize = Field(
        "none",
        description="Quantize the teacher's weights to 8 or 4 bits (needs the extra quantized).",
        json_schema_extra=only_for("model"),
    )
    offload: bool = Field(
        False,
        description="Keep the teacher in host memory while it is not scoring.",
        json_schema_extra=only_for("model"),
    )
    url: str | None = Field(
        None,
        max_length=2000,
        pattern=r"^https?://\S+(\s*,\s*https?://\S+)*$",
        description="Base URL of the server, such as http://localhost:8000/v1 (remote). Several of "
        "one model, with commas between them, share the work.",
        json_schema_extra=only_for("remote"),
    )
    server: Literal["vllm", "sglang"] = Field(
        "vllm",
        description="What the server is (remote).",
        json_schema_extra=choices(
            vllm="vLLM, or one that answers as it does (TRL's from 1.16 on).",
            sglang="SGLang, by its own /generate; it tells no ranks.",
        )
        | only_for("remote"),
    )
    key_variable: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$",
        description="Environment variable with the server's API key (remote).",
        json_schema_extra=only_for("remote"),
    )
    top_k: int = Field(
        20,
        ge=0,
        le=MOST_LIKELIEST,
        description="Number of prompt_logprobs requested per token (servers). From the size of the "
        "vocabulary on, they are the whole distribution.",
        json_schema_extra=only_for("model", "remote"),
    )
    timeout: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Request timeout in seconds (servers).",
        json_schema_extra=only_for("model", "remote"),
    )
    retries: int = Field(
        4,
        ge=0,
        le=100,
        description="Retries after a failed request (remote).",
        json_schema_extra=only_for("remote"),
    )

    @field_validator("url", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        """A list of addresses as one text."""
        several = isinstance(value, list) and all(isinstance(url, str) for url in value)
        return ", ".join(value) if several and value else value

    @property
    def urls(self) -> list[str]:
        """The addresses of the server, or servers."""
        return re.split(r"\s*,\s*(?=https?://)", self.url or "")

    @property
    def has_own_prompt(self) -> bool:
        """Whether it reads something else than the student's prompt."""
        return self.prompt is not None or self.system is not None

    @property
    def behind_server(self) -> bool:
        """Whether it judges by what a server answers."""
        return self.kind == "remote" or self.engine == "vllm"

    @model_validator(mode="after")
    def _fits_its_engine(self) -> "RouteConfig":
        if self.engine == "local":
            return self
        if self.kind != "model":
            raise FieldError("engine", f"only kind model has one (kind is {self.kind})")
        if self.quantize != "none":
            raise FieldError("quantize", f"engine vllm needs none (got {self.quantize})")
        if self.offload:
            raise FieldError("offload", "engine vllm needs false: nothing is loaded here")
        if self.model.lower().endswith(".gguf"):
            raise FieldError("model", "engine vllm needs a folder or hub id (got a GGUF file)")
        return self

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "RouteConfig":
        if self.kind == "remote" and self.url is None:
            raise FieldError("url", "a remote teacher needs its server's address")
        if self.kind != "remote" and self.url is not None:
            raise FieldError("url", f"only a remote teacher has one (kind is {self.kind})")
        if self.kind != "remote" and self.server != "vllm":
            raise FieldError("server", f"only a remote teacher has one (kind is {self.kind})")
        if self.kind not in ("model", "remote") and self.end_token is not None:
            raise FieldError(
                "end_token", f"only a teacher with an end of its own has one (kind is {self.kind})"
            )
        if self.kind != "model" and self.quantize != "none":
            raise FieldError("quantize", f"only kind model is loaded (kind is {self.kind})")
        if self.kind != "model" and self.offload:
            raise FieldError("offload", f"only kind model is loaded (kind is {self.kind})")
        return self


class TeacherConfig(RouteConfig):
    route_by: Column | None = Field(
        None, description="Field of the row that selects the teacher among routes."
    )
    routes: dict[str, RouteConfig] = Field(
        default_factory=dict,
        max_length=16,
        description="More teachers, by value of that field; all other rows use this one.",
    )

    @model_validator(mode="after")
    def _routes_need_a_field(self) -> "TeacherConfig":
        if self.routes and self.route_by is None:
            raise FieldError("route_by", "routes need the name of the field that decides")
        if self.routes and any(t.kind in ("none", "ema") for t in (self, *self.routes.values())):
            raise FieldError("routes", "each teacher must be of kind model, self or remote")
        return self
