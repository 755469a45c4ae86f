"""What the REST routes take: identifiers, pages of lists, and configurations within bounds."""

from typing import Annotated, Any, Literal

from fastapi import Depends, Header, Path, Query, Request
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Engine

from opd.config.drafts.short_forms import with_overrides
from opd.config.drafts.yaml_text import MAX_YAML_BYTES, Document, read_yaml
from opd.config.names import MAX_NOTE
from opd.config.recipes import recipe
from opd.config.run import RunConfig, check_inputs, parse
from opd.errors import ConfigError, UserError

MAX_CONFIG_VALUES = 5_000
MAX_CONFIG_DEPTH = 12
MAX_OFFSET = 1_000_000_000


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    return text


async def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def user_of(request: Request) -> str:
    """Who asks: the name of the token, or else "browser"."""
    caller = getattr(request.state, "caller", None)
    return (caller and caller.name) or "browser"


Database = Annotated[Engine, Depends(engine_of)]
User = Annotated[str, Depends(user_of)]
RUN_ID = "run-[a-z0-9-]{1,80}"
ROLLOUT_ID = "roll-[a-z0-9-]{1,120}"
RunId = Annotated[str, Path(pattern=f"^{RUN_ID}$")]
RolloutId = Annotated[str, Path(pattern=f"^{ROLLOUT_ID}$")]
MarkId = Annotated[str, Path(pattern=r"^mark-[a-z0-9]{1,28}$")]
AskId = Annotated[str, Path(pattern=r"^ask-[a-z0-9]{1,28}$")]
Limit = Annotated[int, Query(ge=1, le=1000)]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET)]
Sort = Annotated[str, Query(pattern=r"^-?[a-z_]{1,40}$")]
Text = Annotated[str, AfterValidator(_storable)]
SearchText = Annotated[Text, Query(max_length=500)]
Tag = Annotated[Text, Field(min_length=1, max_length=100)]
Name = Annotated[Text, Field(max_length=200)]
IfMatch = Annotated[
    str | None,
    Header(
        pattern=r'^(\*|(W/)?"?[0-9]{1,9}"?)$',
        description="The `version` that the editor has seen.",
    ),
]


def seen_version(if_match: str | None) -> int | None:
    """The version in a header `If-Match`; None where any will do."""
    return None if if_match in (None, "*") else int(if_match.removeprefix("W/").strip('"'))


RunName = Annotated[str, Field(pattern=f"^{RUN_ID}$")]
RolloutName = Annotated[str, Field(pattern=f"^{ROLLOUT_ID}$")]


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ConfigSource(Body):
    """A configuration as data, YAML text or a recipe, with assignments applied on top."""

    config: dict[str, Any] | None = None
    yaml: Annotated[Text, Field(max_length=MAX_YAML_BYTES)] | None = None
    recipe: Annotated[Text, Field(max_length=100)] | None = None
    set: list[Annotated[Text, Field(max_length=2000)]] = Field(default=[], max_length=200)

    @model_validator(mode="after")
    def _has_one_source(self) -> "ConfigSource":
        if self.config is not None and self.yaml is not None:
            raise ValueError("give config or yaml, not both")
        if self.config is None and self.yaml is None and self.recipe is None:
            raise ValueError("give one of config, yaml, recipe")
        return self

    def validated(self) -> RunConfig:
        """The configuration. Raises ConfigError, UserError."""
        return check_inputs(parse(self.document().data))

    def document(self) -> Document:
        """The configuration as given, within bounds; lines are those of `yaml`. Raises UserError.

        `recipe` beside `config` or `yaml` only says where that came from.
        """
        if self.config is not None:
            document = Document(self.config)
        elif self.yaml is not None:
            document = read_yaml(self.yaml)
        else:
            document = Document(recipe(self.recipe or "").config)
        check_size(document.data)
        data = with_overrides(document.data, self.set)
        check_size(data)  # `a.a.a…=1` is deep, too
        return Document(data, document.without(self.set).lines)


class StartRun(ConfigSource):
    name: Name | None = None
    request_key: Annotated[Text, Field(min_length=1, max_length=100)] | None = None
    parent: RunName | None = None
    tags: list[Tag] = Field(default=[], max_length=50)


class EditRun(Body):
    """`tags` replaces all of them; `add_tags` and `remove_tags` leave the others as they are."""

    name: Annotated[Name, Field(min_length=1)] | None = None
    tags: list[Tag] | None = Field(default=None, max_length=50)
    add_tags: list[Tag] = Field(default=[], max_length=50)
    remove_tags: list[Tag] = Field(default=[], max_length=50)
    notes: Annotated[Text, Field(max_length=20_000)] | None = None

    @model_validator(mode="after")
    def _tags_in_one_way(self) -> "EditRun":
        if self.tags is not None and (self.add_tags or self.remove_tags):
            raise ValueError("give tags, or add_tags and remove_tags, not both")
        return self


class NewMark(Body):
    """`position`: of the token; null marks the rollout as a whole."""

    position: int | None = Field(default=None, ge=0, le=MAX_OFFSET, strict=True)
    note: Annotated[Text, Field(max_length=MAX_NOTE)] = ""


class EditMark(Body):
    note: Annotated[Text, Field(max_length=MAX_NOTE)]


class CancelRun(Body):
    """`asked`: the mode in which the sender knows the run to be stopping, "" for none; refused with
    409 where somebody has asked for another meanwhile. Null: whatever there is."""

    mode: Literal["save", "discard"] = "save"
    asked: Literal["", "save", "discard"] | None = None


class ResumeRun(Body):
    """`accept_changes`: go on though models or data are not what they were at the start.

    set: `field=value` of the settings that may change within a run (opd.config.resuming).
    """

    accept_changes: bool = False
    set: list[Annotated[Text, Field(max_length=2000)]] = Field(default=[], max_length=20)


def check_size(data: Any) -> None:
    """Refuses data too large, too deep or not storable as text, before anything walks it by name.

    A loop over a stack: the depth of hostile data must not become the depth of calls.
    """
    stack, values, characters = [(data, 0)], 0, 0
    while stack:
        node, depth = stack.pop()
        values += 1
        if values > MAX_CONFIG_VALUES or characters > MAX_YAML_BYTES:
            raise _problem(f"over {MAX_CONFIG_VALUES} values or {MAX_YAML_BYTES} characters")
        if depth > MAX_CONFIG_DEPTH:
            raise _problem(f"nested deeper than {MAX_CONFIG_DEPTH} levels")
        if isinstance(node, str):
            characters += len(node)
            _check_text(node)
        elif isinstance(node, dict):
            stack += [(part, depth + 1) for pair in node.items() for part in pair]
        elif isinstance(node, list):
            stack += [(part, depth + 1) for part in node]


def _check_text(text: str) -> None:
    if "\0" in text:
        raise _problem("text must not hold a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _problem("text must be valid Unicode") from None


def _problem(message: str) -> ConfigError:
    return ConfigError([{"field": "", "message": message}])


def problems_of(error: UserError) -> list[dict[str, str]]:
    """The problems of a configuration that was refused, one entry a field."""
    if isinstance(error, ConfigError):
        return error.problems
    return [{"field": error.where, "message": error.message}]
