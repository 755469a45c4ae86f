"""The configuration of a run: one pydantic model behind the YAML, the form and the command line."""

import difflib
from collections.abc import Callable
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from opd.config.drafts.short_forms import with_long_forms
from opd.config.field_errors import checked, located, raise_all
from opd.config.folders import local_folder, readable_data
from opd.config.model_files.quantized import refuse_cutting, refuse_training_all
from opd.config.names import check_name
from opd.config.whole_run.checks import CHECKS
from opd.config.whole_run.fields import RunFields
from opd.errors import ConfigError, UserError


class RunConfig(RunFields):
    """Everything that decides a run."""

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, data: Any) -> Any:
        """`teacher: some/model` is short for `teacher: {model: some/model}`."""
        return with_long_forms(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        raise_all(error for check in CHECKS for error in check(self))
        return self


FORMS = {  # by section and field: what a text must be that the field's pattern refuses
    "device.device": "must be auto, cpu, cuda, cuda:N or mps",
    "resources.partition": "must be the name of a partition",
    "sampling.url": "must be http://HOST:PORT, https://HOST or unix:/PATH",
    "sampling.key_variable": "must be the name of an environment variable",
    "teacher.url": "must be http://… or https://…, several with commas between them",
    "teacher.key_variable": "must be the name of an environment variable",
}
VISIBLE_FIELDS = (
    "student.model",
    "teacher.model",
    "prompts.source",
    "objective.name",
    "steps",
    "device",
)


def parse(data: Any) -> RunConfig:
    """Validates plain data (from YAML, JSON or the form). Raises ConfigError, one entry a field."""
    try:
        return RunConfig.model_validate({} if data is None else data)
    except ValidationError as error:
        problems = [p for e in error.errors(include_url=False) for p in _problems(e)]
        raise ConfigError(problems) from None


def check_inputs(config: RunConfig) -> RunConfig:
    """The configuration, once its local folders and files were looked at. Raises ConfigError."""
    prompts = config.prompts
    cut = config.models if config.sharding == "full" else {}
    checks: list[tuple[Callable[..., object], str | None, str]] = [
        *((local_folder, model, field) for field, model in config.models.items()),
        (
            refuse_training_all,
            None if config.student.lora else config.student.model,
            "student.lora",
        ),
        *((refuse_cutting, model, field) for field, model in cut.items()),
        (check_name, config.name.strip(), "name"),
        (readable_data, prompts.source, "prompts.source"),
        (readable_data, prompts.eval_source, "prompts.eval_source"),
        *(
            (readable_data, suite.source, f"evaluation.suites.{name}.source")
            for name, suite in config.evaluation.suites.items()
        ),
    ]
    problems = []
    for check, value, field in checks:
        try:
            if value is not None:
                check(value, where=field)
        except UserError as error:
            problems.append({"field": field, "message": error.message})
    if problems:
        raise ConfigError(problems)
    return config


def to_yaml(config: RunConfig, *, only_set: bool = True) -> str:
    """The configuration as YAML, without what equals the defaults unless asked."""
    data = config.model_dump(mode="json", exclude_defaults=only_set)
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True) if data else "{}\n"


def _problems(error: Any) -> list[dict[str, str]]:
    """Of one entry of pydantic's errors."""
    if mistakes := checked(error):
        return [{"field": field, "message": message} for field, message in mistakes]
    field, message = located(error)
    value = error.get("input")
    if error["type"] == "extra_forbidden":
        return [{"field": field, "message": _unknown(field)}]
    if error["type"] in ("int_parsing_size", "int_from_float", "int_parsing"):
        message = "must be a whole number"
    if error["type"] == "string_pattern_mismatch":
        first, last = field.split(".")[0], field.split(".")[-1]
        message = FORMS.get(f"{first}.{last}", message)
    if isinstance(value, (str, int, float, bool)) or value is None:
        message += f" (got {value!r:.80})"
    return [{"field": field, "message": message}]


def _unknown(field: str) -> str:
    *parents, leaf = field.split(".")
    node: Any = RunConfig
    for parent in parents:
        node = node.model_fields[parent].annotation if parent in node.model_fields else node
        node = next(
            (a for a in getattr(node, "__args__", (node,)) if hasattr(a, "model_fields")), node
        )
    fields = list(getattr(node, "model_fields", {}))
    close = difflib.get_close_matches(leaf, fields, n=1)
    hint = f"did you mean {close[0]}?" if close else f"fields here: {', '.join(fields)}"
    return f"unknown field; {hint}"
