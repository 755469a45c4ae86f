"""Rollouts as JSON lines: reading with checks that name line, field, value and limit; writing.

Checked are types, lengths and finiteness, not whether the figures fit each other.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, get_args

import numpy as np
import orjson

from opd.errors import ErrorKind, UserError
from opd.interchange.optional_fields import data_row_of, marks_of, optional_fields, shown
from opd.types import (
    FLOAT_COLUMNS,
    TOKEN_COLUMNS,
    Author,
    FinishReason,
    Floats,
    Ints,
    Kind,
    Rollout,
    TokenRecord,
    TopK,
)

MAX_LINE_BYTES = 256_000_000
BOM = b"\xef\xbb\xbf"
MAX_ID = 2**31 - 1
OWN_IDS = 10_000_000  # the ids that tokens given only as texts get; above every vocabulary
NO_NUMBER = re.compile(r"-?(NaN|Infinity)")
MAX_FLOAT = float(np.finfo(np.float32).max)
FINISH_REASONS = get_args(FinishReason)


def rollouts_of(
    rows: Iterable[tuple[int, dict[str, Any]]],
    path: str,
    unit: str = "line",
    texts: dict[int, bytes] | None = None,
) -> Iterator[Rollout]:
    """Every record, in order; `rows` are numbered from 1 as errors name them.

    Raises UserError at the first that cannot be taken, and where there is none. A sample number
    used twice in one place (step, kind, group) is changed, so that several runs joined in one
    file stay apart. Tokens given only as texts get ids of our own, from OWN_IDS on, which no
    model's tokenizer has. `texts` grows by the tokens that the rows give by id, as UTF-8 or bytes.
    """
    numbering: dict[str, int] = {}
    taken: dict[tuple[int, str, int], set[int]] = {}
    count = 0
    for number, data in rows:
        record = _Record(data, f"{path}, {unit} {number}", numbering)
        rollout = record.rollout(group=number - 1)
        token_texts = record.token_texts()
        if texts is not None:
            texts.update(token_texts)
        used = taken.setdefault((rollout.step, rollout.kind, rollout.group), set())
        sample = rollout.sample if rollout.sample not in used else max(used) + 1
        used.add(sample)
        count += 1
        yield replace(rollout, sample=sample)
    if not count:
        raise UserError("has no records", where=path, kind=ErrorKind.BAD_DATA)


def to_row(rollout: Rollout, run_id: str = "") -> dict[str, Any]:
    """The JSON-lines form of a rollout; a quantity that was not computed is null."""
    record = rollout.record
    row: dict[str, Any] = {
        "run_id": run_id,
        "step": rollout.step,
        "kind": rollout.kind,
        "group": rollout.group,
        "sample": rollout.sample,
        "prompt": rollout.prompt,
        "completion": rollout.completion,
        "prompt_token_ids": rollout.prompt_ids.tolist(),
        "completion_token_ids": record.completion_ids.tolist(),
        "finish_reason": rollout.finish_reason,
        "reward": rollout.reward,
    }
    for name in TOKEN_COLUMNS:
        values = getattr(record, name)
        row[name] = None if values is None else values.tolist()
    for name in ("student_topk", "teacher_topk"):
        row[name] = _pairs(getattr(record, name))
    row["temperature"] = rollout.temperature
    return row | optional_fields(rollout)


def write_line(file: BinaryIO, row: Mapping[str, Any]) -> None:
    file.write(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")


def json_lines(path: Path, infinite: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines with their line numbers. Raises UserError.

    With `infinite`, -Infinity is a number, which JSON does not have."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                line = line.removeprefix(BOM) if number == 1 else line
                if len(line) > MAX_LINE_BYTES:
                    raise UserError(
                        f"longer than the limit of {MAX_LINE_BYTES} bytes",
                        where=f"{path}, line {number}",
                    )
                if line.strip():
                    yield number, _object(line, f"{path}, line {number}", infinite)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from None


def parsed(line: bytes, infinite: bool = False) -> Any:
    """A JSON value. Raises JSONDecodeError."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        if not infinite or b"-Infinity" not in line:
            raise
        try:
            return json.loads(line, parse_constant=_infinite)
        except (ValueError, RecursionError):
            pass
        raise


def _infinite(name: str) -> float:
    if name != "-Infinity":
        raise ValueError(name)
    return -math.inf


def _object(line: bytes, where: str, infinite: bool) -> dict[str, Any]:
    try:
        data = parsed(line, infinite)
    except orjson.JSONDecodeError as error:
        _fail_at_number(error, where)
        raise UserError(f"not valid JSON: {error}", where=where) from None
    if not isinstance(data, dict):
        raise UserError(f"must be a JSON object, one a line (got {shown(data)})", where=where)
    return data


def _fail_at_number(error: orjson.JSONDecodeError, where: str) -> None:
    """Names the field where the fault is a NaN or an infinity, which many programs write."""
    sign = max(0, error.pos - 1)  # the fault of -Infinity is found behind its sign
    number = NO_NUMBER.match(error.doc, sign) or NO_NUMBER.match(error.doc, error.pos)
    if number:
        field = re.findall(r'"(\w+)"\s*:', error.doc[: error.pos])[-1:]
        raise UserError(
            f"must be a finite number (got {number.group()})",
            where=", ".join([where, *field]),
            kind=ErrorKind.BAD_DATA,
        )


@dataclass(frozen=True)
class _Record:
    """One line's fields, each read with its check."""

    data: dict[str, Any]
    where: str
    numbering: dict[str, int]

    def rollout(self, *, group: int) -> Rollout:
        """The whole record; `group` is taken where the line names none."""
        prompt_ids, prompt, prompt_tokens = self._side("prompt")
        ids, completion, completion_tokens = self._side("completion")
        if not len(ids) and not completion:
            self._fail("completion_token_ids", "is missing or empty, and so is completion")
        return Rollout(
            step=self._whole("step", 0),
            kind=self._choice("kind", get_args(Kind), "import"),
            group=self._whole("group", group),
            sample=self._whole("sample", 0),
            prompt=prompt,
            prompt_ids=prompt_ids,
            completion=completion,
            finish_reason=self._choice("finish_reason", FINISH_REASONS, "stop"),
            temperature=self._number("temperature", 1.0) or 0.0,
            record=self._tokens(ids),
            reward=self._number("reward", None),
            answer=self._text("answer"),
            author=self._choice("author", get_args(Author), "student"),
            teacher_end=self._text("teacher_end"),
            teacher=self._text("teacher") or None,
            teacher_prompt=self._text("teacher_prompt"),
            data_row=data_row_of(self.data, self._fail),
            staleness=None if self.data.get("staleness") is None else self._whole("staleness", 0),
            marks=marks_of(self.data, len(ids), self._fail),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
        )

    def token_texts(self) -> dict[int, bytes]:
        """Ids' tokens: `token_texts`, [[id, text] …], and `token_bytes`, [[id, hex] …]."""
        texts = {i: text.encode("utf-8", "replace") for i, text in self._by_id("token_texts")}
        for i, digits in self._by_id("token_bytes"):
            try:
                texts[i] = bytes.fromhex(digits)
            except ValueError:
                self._fail("token_bytes", f"must be hexadecimal (got {shown(digits)})")
        return texts

    def _by_id(self, name: str) -> list[tuple[int, str]]:
        pairs = self._list(name, None) or []
        for i, pair in enumerate(pairs):
            if not (
                isinstance(pair, list)
                and len(pair) == 2
                and type(pair[0]) is int
                and 0 <= pair[0] <= MAX_ID
                and isinstance(pair[1], str)
            ):
                self._fail(f"{name}[{i}]", f"must be [id, text] (got {shown(pair)})")
        return [(i, text) for i, text in pairs]

    def _tokens(self, ids: Ints) -> TokenRecord:
        mask = self._floats("mask", len(ids), flags=True)
        columns = {name: self._floats(name, len(ids), mask=mask) for name in FLOAT_COLUMNS}
        tops = self._topk("student_topk", len(ids)), self._topk("teacher_topk", len(ids))
        return TokenRecord(
            completion_ids=ids,
            **columns,
            teacher_rank=self._ids("teacher_rank", len(ids)),
            mask=mask,
            student_topk=_joined(tops[0], tops[1]),
            teacher_topk=_joined(tops[1], tops[0]),
        )

    def _side(self, side: str) -> tuple[Ints, str, list[str] | None]:
        """Ids, text and token texts of the prompt or the completion, as far as they are there."""
        ids = self._ids(f"{side}_token_ids", None)
        tokens = self._strings(f"{side}_tokens", None if ids is None else len(ids))
        text = self._text(side)
        if tokens is None:
            return (np.zeros(0, np.int64) if ids is None else ids), text or "", None
        if ids is None:
            numbers = [self.numbering.setdefault(t, OWN_IDS + len(self.numbering)) for t in tokens]
            ids = np.array(numbers, np.int64)
        return ids, "".join(tokens) if text is None else text, tokens

    def _list(self, name: str, length: int | None) -> list[Any] | None:
        values = self.data.get(name)
        if values is None:
            return None
        if not isinstance(values, list):
            self._fail(name, f"must be a list (got {shown(values)})")
        if length is not None and len(values) != length:
            other = "prompt_token_ids" if name == "prompt_tokens" else "completion_token_ids"
            self._fail(name, f"has {len(values)} entries where {other} has {length}")
        return values

    def _ids(self, name: str, length: int | None) -> Ints | None:
        values = self._list(name, length)
        if values is None:
            return None
        check_ids(name, values, self._fail)
        return np.array(values, np.int64)

    def _floats(
        self, name: str, length: int, *, flags: bool = False, mask: Floats | None = None
    ) -> Floats | None:
        """Numbers; where the mask leaves a token out, null for one that is not known (NaN here)."""
        values = self._list(name, length)
        if values is None:
            return None
        for i, value in enumerate(values):
            if finite(value) or (flags and isinstance(value, bool)):
                continue
            unknown = value is None or (isinstance(value, float) and math.isnan(value))
            if not (unknown and mask is not None and mask[i] == 0):
                self._fail(f"{name}[{i}]", f"must be a finite number (got {shown(value)})")
        return np.array(values, np.float32)

    def _strings(self, name: str, length: int | None) -> list[str] | None:
        values = self._list(name, length)
        for i, value in enumerate(values or ()):
            if not isinstance(value, str):
                self._fail(f"{name}[{i}]", f"must be text (got {shown(value)})")
        return values

    def _topk(self, name: str, length: int) -> tuple[Ints, Floats] | None:
        """Ids and log-probs (T, k) of `[[id, logprob], …]` per token."""
        rows = self._list(name, length)
        if not rows:
            return None
        for i, row in enumerate(rows):
            if not isinstance(row, list):
                self._fail(f"{name}[{i}]", f"must be a list of pairs (got {shown(row)})")
            if len(row) != len(rows[0]):
                self._fail(f"{name}[{i}]", f"must be a list of {len(rows[0])} pairs like the first")
            for pair in row:
                if not _is_pair(pair):
                    self._fail(f"{name}[{i}]", f"must hold [id, logprob] (got {shown(pair)})")
        if not rows[0]:
            return None
        return (
            np.array([[pair[0] for pair in row] for row in rows], np.int64),
            np.array([[pair[1] for pair in row] for row in rows], np.float32),
        )

    def _whole(self, name: str, default: int) -> int:
        value = self.data.get(name)
        if value is None:
            return default
        if type(value) is not int or not 0 <= value <= MAX_ID:
            self._fail(name, f"must be a whole number from 0 to {MAX_ID} (got {shown(value)})")
        return value

    def _number(self, name: str, default: float | None) -> float | None:
        value = self.data.get(name)
        if value is None:
            return default
        if isinstance(value, bool) and name == "reward":
            return float(value)
        if not finite(value) or (name == "temperature" and value < 0):
            limit = " ≥ 0" if name == "temperature" else ""
            self._fail(name, f"must be a finite number{limit} (got {shown(value)})")
        return float(value)

    def _text(self, name: str) -> str | None:
        value = self.data.get(name)
        if value is not None and not isinstance(value, str):
            self._fail(name, f"must be text (got {shown(value)})")
        return value

    def _choice(self, name: str, options: tuple[str, ...], default: str) -> Any:
        value = self.data.get(name, default)
        if value not in options:
            self._fail(name, f"must be one of {', '.join(options)} (got {shown(value)})")
        return value

    def _fail(self, name: str, message: str) -> NoReturn:
        raise UserError(message, where=f"{self.where}, {name}", kind=ErrorKind.BAD_DATA)


def check_ids(name: str, values: list[Any], fail: Callable[[str, str], NoReturn]) -> None:
    """Calls `fail` with the name and the problem of the first that is not a token id."""
    for i, value in enumerate(values):
        if type(value) is not int or not 0 <= value <= MAX_ID:
            fail(f"{name}[{i}]", f"must be a whole number from 0 to {MAX_ID} (got {shown(value)})")


def finite(value: Any) -> bool:
    """Whether a value read from JSON is a number that float32 holds."""
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= MAX_FLOAT


def _is_pair(pair: Any) -> bool:
    return (
        isinstance(pair, list)
        and len(pair) == 2
        and type(pair[0]) is int
        and 0 <= pair[0] <= MAX_ID
        and finite(pair[1])
    )


def _joined(model: tuple[Ints, Floats] | None, other: tuple[Ints, Floats] | None) -> TopK | None:
    """A TopK; the other model's log-prob is known only where it lists the same id, else NaN."""
    if model is None:
        return None
    ids, logprobs = model
    opinion = np.full(logprobs.shape, np.nan, np.float32)
    if other is not None:
        same = ids[:, :, None] == other[0][:, None, :]  # (T, k, k')
        opinion = np.where(same.any(-1), (same * other[1][:, None, :]).sum(-1), np.nan)
    tail = np.clip(1 - np.exp(np.minimum(logprobs, 0).astype(np.float64)).sum(-1), 0, 1)
    return TopK(ids, logprobs, opinion.astype(np.float32), tail.astype(np.float32))


def _pairs(top: TopK | None) -> list[list[list[float]]] | None:
    if top is None:
        return None
    return [
        [[i, p] for i, p in zip(ids, logprobs, strict=True)]
        for ids, logprobs in zip(top.ids.tolist(), top.logprobs.tolist(), strict=True)
    ]
