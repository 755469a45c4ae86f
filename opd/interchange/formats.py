"""Rollouts from files of other programs, and in which form a file is.

- rollouts: our own records, as JSON lines or as Parquet.
- vllm: answers of vLLM with `prompt_logprobs` (opd/interchange/vllm.py), JSON lines or one
  document.
- trl: the table of completions that TRL's trainers write with `log_completions`, in Parquet: step,
  prompt, completion, a column for each reward, advantage. Text only, for `opd score` to complete.

Source: TRL, trl/trainer/grpo_trainer.py and distillation_trainer.py, `log`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import orjson
import pyarrow as pa

from opd.errors import ErrorKind, UserError
from opd.interchange import parquet
from opd.interchange.jsonl import MAX_LINE_BYTES, finite, json_lines, rollouts_of, shown
from opd.interchange.vllm import Answers, is_answer
from opd.types import Rollout

FORMATS = ("auto", "rollouts", "vllm", "trl")
NO_REWARD = ("step", "advantage", "advantages", "group", "sample")


Message = Mapping[str, str]  # role and content
# Messages → the prompt's text, and its ids where a tokenizer is at hand
Chat = Callable[[Sequence[Message]], tuple[str, list[int] | None]]


@dataclass(frozen=True)
class Source:
    """A file's rollouts, read as they are asked for; `texts` grows by token texts on the way."""

    format: str  # one of FORMATS but auto
    rollouts: Iterator[Rollout]
    texts: dict[int, str] = field(default_factory=dict)
    rewards: tuple[str, ...] = ()  # the columns that make up the reward

    def vocabulary(self, ids: Any) -> dict[int, tuple[bytes, bool]]:
        """The texts of those ids that the file gave, for the store."""
        texts = {i: self.texts[i] for i in ids if i in self.texts}
        return {i: (text.encode("utf-8", "replace"), False) for i, text in texts.items()}


def lines_of(messages: Sequence[Message]) -> tuple[str, list[int] | None]:
    """A chat as plain text, a line a message, where no template is at hand."""
    return "\n".join(f"{m['role']}: {m['content']}" for m in messages), None


def open_rollouts(
    path: Path,
    format_name: str = "auto",
    *,
    prompt_tokens: int | None = None,
    chat: Chat = lines_of,
) -> Source:
    """The file's rollouts. Raises UserError, also while they are read, at the first fault."""
    if format_name not in FORMATS:
        names = ", ".join(FORMATS)
        raise UserError(f"must be one of {names} (got {shown(format_name)})", where="--format")
    if path.is_dir():
        raise UserError("is a folder; name a file", where=str(path))
    form = format_of(path) if format_name == "auto" else format_name
    if form == "vllm":
        answers = Answers(str(path), prompt_tokens)
        rows = answers.rows(_documents(path))
        return Source(form, rollouts_of(rows, str(path)), answers.texts)
    if form == "trl":
        table = _Completions(str(path), _reward_columns(path), chat)
        rows = table.rows(parquet.read_parquet(path))
        return Source(form, rollouts_of(rows, str(path), "row"), rewards=table.rewards)
    texts: dict[int, str] = {}
    if parquet.is_parquet(path):
        rows, unit = parquet.read_parquet(path), "row"
    else:
        rows, unit = json_lines(path), "line"
    return Source(form, rollouts_of(rows, str(path), unit, texts), texts)


def format_of(path: Path) -> str:
    """The form that a file's beginning shows; what shows none is taken for our own."""
    if parquet.is_parquet(path):
        names = set(parquet.columns_of(path).names)
        ours = {"completion_token_ids", "completion_tokens"} & names
        return "trl" if {"prompt", "completion"} <= names and not ours else "rollouts"
    try:
        _, first = next(_documents(path), (0, None))
    except UserError:
        return "rollouts"  # whose reader names the fault
    return "vllm" if is_answer(first) else "rollouts"


def _documents(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, of one JSON document, or of a list that is one."""
    whole = _whole(path)
    if whole is None:
        yield from json_lines(path)
        return
    for number, data in enumerate(whole if isinstance(whole, list) else [whole], 1):
        if not isinstance(data, dict):
            where = f"{path}, line {number}"
            raise UserError(f"must be a JSON object (got {shown(data)})", where=where)
        yield number, data


def _whole(path: Path) -> Any:
    """The document, where the first line is not one by itself but the file is."""
    try:
        with path.open("rb") as file:
            first = file.readline(MAX_LINE_BYTES)
            if _parsed(first) is not None and not first.lstrip().startswith(b"["):
                return None
            return _parsed(first + file.read(MAX_LINE_BYTES - len(first)))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _parsed(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


def _reward_columns(path: Path) -> tuple[str, ...]:
    """`reward` where there is one; else every column of numbers that is nothing else."""
    if not parquet.is_parquet(path):
        raise UserError("is not Parquet, as TRL's tables of completions are", where=str(path))
    schema = parquet.columns_of(path)
    missing = [name for name in ("prompt", "completion") if name not in schema.names]
    if missing:
        raise UserError(
            f"has no column {missing[0]}; it has {', '.join(schema.names)}"[:300], where=str(path)
        )
    if "reward" in schema.names:
        return ("reward",)
    numbers = [column.name for column in schema if _is_number(column.type)]
    return tuple(n for n in numbers if n not in NO_REWARD and not n.startswith("__"))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))


@dataclass(frozen=True)
class _Completions:
    """Rows of TRL's table as rows of ours; equal prompts are one group."""

    path: str
    rewards: tuple[str, ...]
    chat: Chat
    groups: dict[str, int] = field(default_factory=dict)

    def rows(
        self, table: Iterator[tuple[int, dict[str, Any]]]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, given in table:
            where = f"{self.path}, row {number}"
            prompt, ids = self._prompt(given.get("prompt"), where)
            row = {
                "step": given.get("step"),
                "group": self.groups.setdefault(prompt, len(self.groups)),
                "prompt": prompt,
                "completion": self._completion(given.get("completion"), where),
                "reward": self._reward(given),
            }
            yield number, row if ids is None else row | {"prompt_token_ids": ids}

    def _prompt(self, value: Any, where: str) -> tuple[str, list[int] | None]:
        if isinstance(value, str):
            return value, None
        return self.chat(_messages(value, f"{where}, prompt"))

    def _completion(self, value: Any, where: str) -> str:
        """The text, or the assistant's messages."""
        if isinstance(value, str):
            return value
        messages = _messages(value, f"{where}, completion")
        return "\n".join(m["content"] for m in messages if m["role"] == "assistant")

    def _reward(self, given: Mapping[str, Any]) -> float | None:
        """The sum of the rewards, as TRL's weights are 1; one that is NaN was not given."""
        values = [given[name] for name in self.rewards if given.get(name) is not None]
        given_values = [v for v in values if not (isinstance(v, float) and math.isnan(v))]
        odd = [v for v in given_values if not finite(v)]
        if odd or not given_values:
            return odd[0] if odd else None  # what is infinite is refused by its field's check
        return float(sum(given_values))


def _messages(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        _bad(where, f"must be text or a list of messages (got {shown(value)})")
    return [_message(item, f"{where}[{i}]") for i, item in enumerate(value)]


def _message(item: Any, where: str) -> Message:
    role = item.get("role") if isinstance(item, dict) else None
    if not isinstance(role, str):
        _bad(where, f"must be a message with role and content (got {shown(item)})")
    content = item.get("content")
    if isinstance(content, list):  # parts, of which some are pictures
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in parts if isinstance(text, str))
    if content is not None and not isinstance(content, str):
        _bad(where, f"content must be text (got {shown(content)})")
    return {"role": role, "content": content or ""}


def _bad(where: str, message: str) -> NoReturn:
    raise UserError(message, where=where, kind=ErrorKind.BAD_DATA)
