"""Rollouts from files of other programs, and in which form a file is.

- rollouts: our own records, as JSON lines or as Parquet.
- vllm: answers of vLLM with `prompt_logprobs` (opd/interchange/vllm.py) or of SGLang
  (opd/interchange/sglang.py), JSON lines or one document.
- trl: the table of completions that TRL's trainers write (opd/interchange/trl.py), in Parquet.
- trainer: dumps of other trainers (opd/interchange/trainers.py), JSON lines.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from opd.errors import ErrorKind, UserError
from opd.interchange import parquet, sglang
from opd.interchange.jsonl import BOM, MAX_LINE_BYTES, json_lines, parsed, rollouts_of
from opd.interchange.optional_fields import shown
from opd.interchange.trainers import SHAPES, Dump, refuse, shape_of
from opd.interchange.trl import Chat, Completions, Message, is_table, reward_columns
from opd.interchange.vllm import Answers, is_answer
from opd.types import Rollout

FORMATS = ("auto", "rollouts", "vllm", "trl", "trainer")
NOT_READ = (  # how such a file begins → what it is
    (b"PK\x03\x04", "is a ZIP archive, as torch.save and numpy write"),
    (b"\x80", "is a Python pickle"),
    (b"\x1f\x8b", "is compressed with gzip: decompress it first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: decompress it first"),
    (b"ARROW1", "is an Arrow file: write it as Parquet"),
    (b"\xff\xff\xff\xff", "is an Arrow stream: write it as Parquet"),
)


@dataclass(frozen=True)
class Source:
    """A file's rollouts, read as they are asked for; `texts` grows by token texts on the way."""

    format: str  # one of FORMATS but auto
    rollouts: Iterator[Rollout]
    texts: Mapping[int, str | bytes] = field(default_factory=dict)
    rewards: tuple[str, ...] = ()  # the columns that make up the reward
    shape: str = ""  # whose dump it is
    changes: Mapping[str, int] = field(default_factory=dict)  # what was changed, and how often

    def vocabulary(self, ids: Any) -> dict[int, tuple[bytes, bool]]:
        """The texts of those ids that the file gave, for the store."""
        texts = {i: self.texts[i] for i in ids if i in self.texts}
        return {
            i: (text if isinstance(text, bytes) else text.encode("utf-8", "replace"), False)
            for i, text in texts.items()
        }


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
    _check_beginning(path)
    form = format_of(path) if format_name == "auto" else format_name
    if form == "vllm":
        answers = Answers(str(path), prompt_tokens)
        rows = answers.rows(sglang.as_answers(_documents(path), str(path)))
        rollouts = rollouts_of(rows, str(path))
        return Source(form, rollouts, answers.texts, changes=answers.changes)
    if form == "trainer":
        return _dump(path, chat)
    if form == "trl":
        table = Completions(str(path), reward_columns(path), chat)
        rows = table.rows(parquet.read_parquet(path))
        return Source(form, rollouts_of(rows, str(path), "row"), rewards=table.rewards)
    texts: dict[int, bytes] = {}
    if parquet.is_parquet(path):
        rows, unit = parquet.read_parquet(path), "row"
    else:
        rows, unit = json_lines(path), "line"
    return Source(form, rollouts_of(rows, str(path), unit, texts), texts)


def format_of(path: Path) -> str:
    """The form that a file's beginning shows; what shows none is taken for our own."""
    if parquet.is_parquet(path):
        return "trl" if is_table(parquet.columns_of(path).names) else "rollouts"
    try:
        first = next(_documents(path), (0, {}))[1]
    except UserError:
        return "rollouts"  # whose reader names the fault
    if shape_of(first) is not None:
        return "trainer"
    refuse(first, f"{path}, line 1")
    return "vllm" if is_answer(first) else "rollouts"


def _dump(path: Path, chat: Chat) -> Source:
    documents = _documents(path)
    number, first = next(documents, (0, {}))
    shape = shape_of(first)
    if shape is None:
        names = ", ".join(shape.name for shape in SHAPES)
        raise UserError(f"is no dump of {names}: its fields are {shown([*first])}", where=str(path))
    rows = Dump(str(path), chat).rows(chain([(number, first)], documents), shape)
    return Source("trainer", rollouts_of(rows, str(path)), shape=shape.name)


def _check_beginning(path: Path) -> None:
    """Raises UserError for files that are neither text nor Parquet, by what they are."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None
    for magic, text in NOT_READ:
        if start.startswith(magic):
            runs_code = "archive" in text or "pickle" in text
            kind = ErrorKind.REFUSED_DATA if runs_code else ErrorKind.BAD_DATA
            code = "; pickled objects can run code and are not read" if runs_code else ""
            raise UserError(text + code, where=str(path), kind=kind)


def _documents(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of JSON lines, of one JSON document, or of a list that is one."""
    whole = _whole(path)
    if whole is None:
        yield from json_lines(path, infinite=True)
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
            first = file.readline(MAX_LINE_BYTES).removeprefix(BOM)
            if _parsed(first) is not None and not first.lstrip().startswith(b"["):
                return None
            return _parsed(first + file.read(MAX_LINE_BYTES - len(first)))
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None


def _parsed(data: bytes) -> Any:
    try:
        return parsed(data, infinite=True)
    except orjson.JSONDecodeError:
        return None
