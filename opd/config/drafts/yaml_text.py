"""YAML of a configuration: read within limits, with the line on which each field stands.

Stricter than YAML 1.1 where it would hide a mistake or cost memory: a key that stands twice,
aliases, deep nesting and more than MAX_YAML_BYTES are refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from opd.errors import ConfigError, UserError

MAX_YAML_BYTES = 64_000
MAX_YAML_DEPTH = 20
SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C where it is built
UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


@dataclass(frozen=True)
class YamlProblem:
    """What is wrong with the text itself; `line` counts from 1, and is 0 for the whole of it."""

    message: str
    line: int = 0
    field: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


class YamlError(UserError):
    """Text that is not YAML, or not what a configuration may be made of."""

    def __init__(self, problems: list[YamlProblem], *, where: str) -> None:
        self.problems = problems
        super().__init__("; ".join(map(str, problems)), where=where)


@dataclass(frozen=True)
class Document:
    """A mapping of fields to values, and the line, from 1, of each by its dotted path."""

    data: dict[str, Any]
    lines: Mapping[str, int] = field(default_factory=dict)

    def line(self, path: str) -> int:
        """Of a field, or of what stands around it; 0 where the text says nothing of it."""
        while path and path not in self.lines:
            path = path.rpartition(".")[0]
        return self.lines.get(path, 0)

    def without(self, assignments: Sequence[str]) -> "Document":
        """Without the lines of what `field=value` assignments set in their place."""
        given = {a.partition("=")[0].strip() for a in assignments}
        kept = {p: n for p, n in self.lines.items() if not given & {p, *_parents(p)}}
        return Document(self.data, kept)

    def located(self, error: ConfigError) -> ConfigError:
        """The error with the line of each field that the text sets."""
        return ConfigError(
            [
                p | {"message": f"{p['message']} (line {line})" if line else p["message"]}
                for p in error.problems
                for line in [self.line(p["field"])]
            ]
        )


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition(".")[0]:
        yield path


def load_yaml(text: str, *, where: str = "configuration") -> dict[str, Any]:
    """Parses YAML text into a mapping. Raises YamlError for bad YAML or too much of it."""
    return read_yaml(text, where=where).data


def read_yaml(text: str, *, where: str = "configuration") -> Document:
    """As load_yaml, with the line of each field."""
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_YAML_BYTES:
        raise _error(f"over the limit of {MAX_YAML_BYTES:,} bytes (got {size:,})", where)
    node = _composed(text.removeprefix("\ufeff"), where)
    if node is None:
        return Document({})
    if not isinstance(node, yaml.MappingNode):
        raise _error("must be a mapping of fields to values", where, _line(node))
    lines: dict[str, int] = {}
    repeated = list(_walk(node, "", lines))
    if repeated:
        raise YamlError(repeated, where=where)
    try:
        data = yaml.constructor.SafeConstructor().construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2001-99-99 is no date
        raise _not_yaml(error, text, where) from None
    return Document(data, lines)


def read_file(path: Path) -> Document:
    try:
        return read_yaml(path.read_text(encoding="utf-8"), where=str(path))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise UserError("is not UTF-8 text", where=str(path)) from None


def load_scalar(raw: str, *, where: str) -> Any:
    """The value of `--set FIELD=VALUE`; also reads 1e-4, text in YAML 1.1, as a number."""
    try:
        _check_shape(raw, where)
        value = yaml.load(raw, Loader=SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: 2001-99-99 is no date
        raise UserError(f"{raw[:80]!r} cannot be read as a value", where=where) from None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _composed(text: str, where: str) -> yaml.Node | None:
    if match := UNPRINTABLE.search(text):
        line = text.count("\n", 0, match.start()) + 1
        character = f"the control character U+{ord(match[0]):04X}"
        raise _error(f"not valid YAML: holds {character}", where, line)
    try:
        _check_shape(text, where)
        node: yaml.Node | None = yaml.compose(text, Loader=SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _not_yaml(error, text, where) from None
    return node


def _check_shape(text: str, where: str) -> None:
    """Refuses aliases (a few lines of them expand to gigabytes) and deep nesting, while parsing."""
    depth = 0
    for event in yaml.parse(text, SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        if isinstance(event, yaml.AliasEvent):
            raise _error("YAML aliases (*name) are not supported; write the value out", where, line)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise _error(f"nested deeper than the limit of {MAX_YAML_DEPTH}", where, line)


def _walk(node: yaml.Node, path: str, lines: dict[str, int]) -> Iterator[YamlProblem]:
    """Notes each field's line; yields the keys that stand twice."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[f"{path}.{index}"] = _line(item)
            yield from _walk(item, f"{path}.{index}", lines)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        name = f"{path}.{key.value}" if path else key.value
        line = _line(key)
        if key.value in first:
            yield YamlProblem(
                f"{name} is set twice, first on line {first[key.value]}; leave one of them out",
                line,
                name,
            )
            continue
        first[key.value] = lines[name] = line
        yield from _walk(value, name, lines)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _not_yaml(error: Exception, text: str, where: str) -> YamlError:
    """The library's error in one line, at the place that it names."""
    mark, context = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    mark = mark or context
    if mark is None:
        return _error(f"not valid YAML: {' '.join(str(error).split())}", where)
    parts = [getattr(error, "context", None), getattr(error, "problem", None)]
    if parts[0] and context is not None and context.line != mark.line:
        parts[0] += f" that begins on line {context.line + 1}"
    said = ", ".join(str(p) for p in parts if p)
    line = min(mark.line, text.count("\n")) + 1  # the end of the text is named as a line below it
    return _error(f"not valid YAML at column {mark.column + 1}: {said}", where, line)


def _error(message: str, where: str, line: int = 0) -> YamlError:
    return YamlError([YamlProblem(message, line)], where=where)
