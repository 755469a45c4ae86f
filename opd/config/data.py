"""Where a run's prompts come from and how completions are graded. Free of torch."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from opd.config.field_errors import FieldError
from opd.config.json_schema import check_schema
from opd.config.templates import fields_of


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


PROBES = 4  # where no number of them is given
Reference = Annotated[str, Field(min_length=1, max_length=1000)]
Column = Annotated[str, Field(min_length=1, max_length=200)]
Template = Annotated[str, Field(min_length=1, max_length=100_000), AfterValidator(_readable)]
Pattern = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_compiles)]
Schema = Annotated[dict[str, Any], AfterValidator(_is_schema)]
Grader = Literal["exact", "regex", "numeric", "math", "json", "tool_call", "none"]


def choices(**help_texts: str) -> dict[str, Any]:
    """What a form says of each value of a choice."""
    return {"choices": help_texts}


def only_for(*values: str) -> dict[str, Any]:
    """A form shows the field for these values of its section's choice alone."""
    return {"only_for": list(values)}


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ColumnsConfig(Section):
    prompt: Column = Field("prompt", description="Column of the prompt, where it is text.")
    messages: Column = Field(
        "messages", description="Column of the chat messages; used where the rows have it."
    )
    answer: Column = Field("answer", description="Column of the right answer, if any.")
    completion: Column = Field(
        "completion", description="Column of given completions (sampling.source given)."
    )


class DataConfig(Section):
    """Where prompts come from, how they are rendered and how completions are graded."""

    source: Reference = Field(
        "bundled",
        description="bundled (word problems), bundled/facts-1 and others, a JSON-lines or Parquet "
        "file, a folder of a data set, or a hub id.",
    )
    subset: Column | None = Field(None, description="Configuration of the hub data set.")
    split: Column = Field("train", description="Split of the hub data set or folder.")
    columns: ColumnsConfig = Field(default_factory=ColumnsConfig)  # type: ignore[arg-type]
    chat: bool = Field(
        False, description="Puts plain prompts through the chat template; messages always go there."
    )
    system: str | None = Field(
        None, max_length=100_000, description="System message before each chat that has none."
    )
    thinking: bool | None = Field(
        None, description="The chat template's thinking switch, where it has one."
    )
    prompt_template: Template | None = Field(
        None, description="Makes the prompt from the row's fields: 'Question: {prompt}\\nAnswer:'."
    )
    max_prompt_tokens: int | None = Field(
        None, ge=1, le=10_000_000, description="Limit of a prompt's length; empty: the context's."
    )
    overlong: Literal["error", "drop"] = Field(
        "error", description="What happens to longer prompts: the run is refused, or they go."
    )
    grader: Grader = Field(
        "exact",
        description="Decides whether a completion is right.",
        json_schema_extra=choices(
            exact="The text after </think> equals the answer.",
            regex="What answer_pattern finds equals the answer.",
            numeric="The last number equals the answer, within tolerance.",
            math="math-verify finds both equal.",
            json="The text is JSON that satisfies json_schema.",
            tool_call="The call's name and arguments equal the answer's.",
            none="There is no reward.",
        ),
    )
    answer_pattern: Pattern | None = Field(
        None,
        description="Finds the answer in a completion; its last group, last match (regex, "
        "numeric).",
        json_schema_extra=only_for("regex", "numeric"),
    )
    answer_in_data: Pattern | None = Field(
        None,
        description="Finds the answer in the answer column, such as '#### (.+)'; its last group.",
    )
    tolerance: float = Field(
        0.0, ge=0, le=1e12, description="Largest difference still right (numeric)."
    )
    json_schema: Schema | None = Field(
        None, description="JSON schema that the answer must satisfy (json)."
    )

    @model_validator(mode="after")
    def _grader_has_what_it_needs(self) -> "DataConfig":
        if self.grader == "regex" and self.answer_pattern is None:
            raise FieldError("answer_pattern", "the grader regex needs the pattern of an answer")
        return self


class PromptsConfig(DataConfig):
    count: int = Field(
        2048, ge=1, le=1_000_000, description="How many training prompts to draw from the source."
    )
    problem_steps: int = Field(
        3, ge=1, le=6, description="Length of the bundled problems, in reasoning steps."
    )
    problem_seed: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Which of the bundled problems are drawn, held-out ones too; settings are "
        "chosen on other problems than they are judged on.",
    )
    eval_source: str | None = Field(
        None,
        max_length=1000,
        description="File, folder or hub id for evaluation; without it and eval_split, a share of "
        "source is held out.",
    )
    eval_split: Column | None = Field(
        None, description="Split for evaluation, of eval_source or of source."
    )
    eval_share: float = Field(
        0.1, gt=0, le=0.5, description="Share of source held out when nothing else is named."
    )
    probe: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="Held-out prompts that the student answers before its first step; these "
        "answers are scored again, and new ones are kept, at every evaluation. Without a number "
        f"{PROBES}, or a quarter of what is held out where that is less.",
    )


class SuiteConfig(DataConfig):
    """A further set of prompts that the student is evaluated on."""

    split: Column = Field("test", description="Split of the hub data set or folder.")
    count: int = Field(200, ge=1, le=100_000, description="How many of its prompts are evaluated.")
    problem_steps: int | None = Field(
        None, ge=1, le=6, description="As of the prompts, for bundled problems of another length."
    )
    when: Literal["always", "ends"] = Field(
        "always",
        description="At which evaluations.",
        json_schema_extra=choices(
            always="At each.", ends="Before the first and after the last step."
        ),
    )
