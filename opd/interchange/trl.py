"""The table of completions that TRL's trainers write with `log_completions`, in Parquet.

Its columns: step, prompt, completion, one for each reward, advantage. Text only, for `opd score` to
complete.

Source: TRL, trl/trainer/grpo_trainer.py and distillation_trainer.py, `log`.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa

from opd.errors import ErrorKind, UserError
from opd.interchange import parquet
from opd.interchange.jsonl import finite
from opd.interchange.optional_fields import shown

NO_REWARD = ("step", "advantage", "advantages", "group", "sample")

Message = Mapping[str, str]  # role and content
# Messages → the prompt's text, and its ids where a tokenizer is at hand
Chat = Callable[[Sequence[Message]], tuple[str, list[int] | None]]


def is_table(columns: Collection[str]) -> bool:
    """Whether a Parquet file with these columns is such a table, not one of our own records."""
    ours = {"completion_token_ids", "completion_tokens"} & set(columns)
    return {"prompt", "completion"} <= set(columns) and not ours


def reward_columns(path: Path) -> tuple[str, ...]:
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
class Completions:
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
        return self.chat(messages(value, f"{where}, prompt"))

    def _completion(self, value: Any, where: str) -> str:
        """The text, or the assistant's messages."""
        if isinstance(value, str):
            return value
        said = messages(value, f"{where}, completion")
        return "\n".join(m["content"] for m in said if m["role"] == "assistant")

    def _reward(self, given: Mapping[str, Any]) -> float | None:
        """The sum of the rewards, as TRL's weights are 1; one that is NaN was not given."""
        values = [given[name] for name in self.rewards if given.get(name) is not None]
        given_values = [v for v in values if not (isinstance(v, float) and math.isnan(v))]
        odd = [v for v in given_values if not finite(v)]
        if odd or not given_values:
            return odd[0] if odd else None  # what is infinite is refused by its field's check
        return float(sum(given_values))


def messages(value: Any, where: str) -> list[Message]:
    """A chat's messages. Raises UserError."""
    if not isinstance(value, list) or not value:
        _bad(where, f"must be text or a list of messages (got {shown(value)})")
    return [message(item, f"{where}[{i}]") for i, item in enumerate(value)]


def message(item: Any, where: str) -> Message:
    """One message, its text parts joined. Raises UserError."""
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
