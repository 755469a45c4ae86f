"""Where a run's prompts come from and how completions are graded. Free of torch."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from opd.config.field_errors import FieldError
from opd.config.json_schema import check_schema
from opd.config.templates import check_template_args, fields_of
from opd.errors import UserError


def _readable(template: str) -> str:
    fields_of(template)
    return template


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"is not a valid regular expression ({str(error)[:300]})") from None
    return pattern


def _is_schema(schema: dict[str, Any]) -> dict[str, Any]:
    check_schema(schema)
    return schema


def _template_args(args: dict[str, Any]) -> dict[str, Any]:
    check_template_args(args)
    return args


SUITES = "evaluation.suites."  # what the section of a suite is called, before its name
PROBES = 4  # where no number of them is given
Reference = Annotated[str, Field(min_length=1, max_length=1000)]
Column = Annotated[str, Field(min_length=1, max_length=200)]
Template = Annotated[str, Field(min_length=1, max_length=100_000), AfterValidator(_readable)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_compiles)]
Schema = Annotated[dict[str, Any], AfterValidator(_is_schema)]
TemplateArgs = Annotated[
    dict[Annotated[str, Field(min_length=1, max_length=200)], Any],
    Field(max_length=64),
    AfterValidator(_template_args),
]
Grader = Literal["exact", "regex", "numeric", "math", "json", "tool_call", "none"]


def choices(**help_texts: str) -> dict[str, Any]:
    """What a form says of each value of a choice."""
    return {"choices": help_texts}


def only_for(*values: str) -> dict[str, Any]:
    """A form shows the field only for these values of its section's choice."""
    return {"only_for": list(values)}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ColumnsConfig(Section):
    prompt: Column = Field("prompt", description="Column with the prompt as text.")
    messages: Column = Field(
        "messages", description="Column with chat messages; takes precedence over prompt."
    )
    answer: Column = Field("answer", description="Column with the correct answer, if any.")
    completion: Column = Field(
        "completion", description="Column with given completions (sampling.source: given)."
    )
    system: Column = Field(
        "system", description="Column with the row's system message, for chats without one."
    )
    tools: Column = Field(
        "tools", description="Column with the tools that the chat template lists."
    )
    template_args: Column = Field(
        "chat_template_kwargs",
        description="Column with variables of the chat template, which override template_args.",
    )


class DataConfig(Section):
    """Where prompts come from, how they are rendered and how completions are graded."""

    source: Reference = Field(
        "bundled",
        description="bundled (word problems), another bundled set such as bundled/facts-1, a "
        "JSON, CSV or Parquet file, a data set folder, or a hub id.",
    )
    subset: Column | None = Field(None, description="Configuration (subset) of the hub data set.")
    split: Column = Field("train", description="Split of the hub data set or folder.")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)  # type: ignore[arg-type]
    chat: bool = Field(
        False, description="Apply the chat template to plain prompts; messages always use it."
    )
    system: str | None = Field(
        None, max_length=100_000, description="System message for chats without one."
    )
    thinking: bool | None = Field(
        None,
        description="Thinking switch of the chat template (enable_thinking, thinking), if it has "
        "one.",
    )
    template_args: TemplateArgs | None = Field(
        None,
        description="Further variables of the chat template.",
        examples=[{"reasoning_effort": "low"}],
    )
    prompt_template: Template | None = Field(
        None,
        description="Builds the prompt from fields of the row: 'Question: {prompt}\\nAnswer:'.",
    )
    max_prompt_tokens: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Maximum prompt length in tokens; empty: what fits the context.",
    )
    overlong: Literal["error", "drop"] = Field(
        "error", description="What to do with longer prompts: fail, or drop them."
    )
    grader: Grader = Field(
        "exact",
        description="How a completion is graded as right or wrong.",
        json_schema_extra=choices(
            exact="The text after the reasoning equals the answer.",
            regex="What answer_pattern matches equals the answer.",
            numeric="The last number (in a \\boxed{}, if any) equals the answer, within tolerance.",
            math="math-verify judges both to be equal; the last \\boxed{} counts.",
            json="The text is JSON that is valid under json_schema.",
            tool_call="The call's name and arguments equal the answer's.",
            none="No grading, no reward.",
        ),
    )
    answer_pattern: Pattern | None = Field(
        None,
        description="Regular expression that finds the answer in a completion: last group of the "
        "last match (regex, numeric).",
        json_schema_extra=only_for("regex", "numeric"),
    )
    answer_in_data: Pattern | None = Field(
        None,
        description="Regular expression that extracts the answer from the answer column, such as "
        "'#### (.+)': its last group.",
    )
    tolerance: float = Field(
        0.0, ge=0, le=1e12, description="Largest difference that still counts as right (numeric)."
    )
    json_schema: Schema | None = Field(
        None,
        description="JSON schema that the completion must satisfy (json).",
        examples=[{"type": "object", "required": ["answer"]}],
    )

    @model_validator(mode="after")
    def _grader_has_what_it_needs(self) -> "DataConfig":
        if self.grader == "regex" and self.answer_pattern is None:
            raise FieldError("answer_pattern", "the grader regex needs the pattern of an answer")
        return self


class PromptsConfig(DataConfig):
    count: int = Field(
        2048, ge=1, le=1_000_000, description="Number of training prompts drawn from the source."
    )
    problem_steps: int = Field(3, ge=1, le=6, description="Reasoning steps per bundled problem.")
    problem_seed: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Seed of the bundled problems, held-out ones included. Tune on one seed and "
        "report on another.",
    )
    eval_source: str | None = Field(
        None,
        max_length=1000,
        description="File, folder or hub id for evaluation; without it and eval_split, part of "
        "source is held out.",
    )
    eval_split: Column | None = Field(
        None, description="Evaluation split of eval_source, or of source."
    )
    eval_share: float = Field(
        0.1, gt=0, le=0.5, description="Fraction of source held out if no evaluation data is named."
    )
    exclude_evaluation: bool = Field(
        False,
        description="Leave out training prompts that are also in the held-out prompts or in a "
        "suite (equal except for whitespace and case).",
    )
    probe: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Held-out prompts that the student answers before the first step. At every "
        "evaluation these answers are scored again and new ones are recorded. "
        f"Empty: {PROBES}, or a quarter of the held-out prompts if that is less.",
    )


class SuiteConfig(DataConfig):
    """An additional set of evaluation prompts."""

    split: Column = Field("test", description="Split of the hub data set or folder.")
    count: int = Field(200, ge=1, le=100_000, description="Number of prompts to evaluate.")
    problem_steps: int | None = Field(
        None, ge=1, le=6, description="Reasoning steps per bundled problem; empty: as prompts."
    )
    when: Literal["always", "ends"] = Field(
        "always",
        description="Which evaluations include it.",
        json_schema_extra=choices(
            always="Every evaluation.", ends="Only before the first and after the last step."
        ),
    )


def check_prompt_set(name: str, suites: Iterable[str]) -> None:
    """Raises UserError for a name that is not train, held-out, probe or a suite's section."""
    names = ["train", "held-out", "probe", *(f"{SUITES}{suite}" for suite in suites)]
    if name not in names:
        raise UserError(
            f"no set of prompts is called {name[:100]!r}; there are {', '.join(names)}"[:1000],
            where="prompts",
        )
