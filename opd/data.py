"""Prompts: from the bundled generator or a JSON-lines file, split, tokenized, drawn by seed."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opd.bundled.problems import problems
from opd.config import PromptsConfig, RunConfig
from opd.types import UserError

MAX_LINE_BYTES = 4_000_000


@dataclass(frozen=True)
class Prompt:
    """One prompt; `number` is its place in the run's prompt set and seeds its rollouts."""

    number: int
    text: str
    ids: tuple[int, ...]
    answer: str | None


@dataclass(frozen=True)
class PromptSet:
    train: Sequence[Prompt]
    held_out: Sequence[Prompt]

    def for_step(self, step: int, count: int, seed: int) -> list[Prompt]:
        """The step's prompts (steps count from 1): a fresh shuffle for every pass over the set.

        Depends on (seed, step, count) alone, so that a resumed run draws what it would have drawn.
        """
        first = (step - 1) * count
        passes: dict[int, list[int]] = {}
        chosen = []
        for position in range(first, first + count):
            turn, place = divmod(position, len(self.train))
            if turn not in passes:
                passes[turn] = random.Random(f"{seed}/{turn}").sample(
                    range(len(self.train)), len(self.train)
                )
            chosen.append(self.train[passes[turn][place]])
        return chosen


def load_prompts(config: RunConfig, tokenizer: Any, context: int) -> PromptSet:
    """The run's prompts. Raises UserError naming file and line for a row that cannot be used."""
    source = config.prompts
    if source.source == "bundled":
        train, held_out = _bundled(source, config.evaluation.prompts)
    else:
        train, held_out = _from_files(source, config.evaluation.prompts, config.seed)
    limit = context - config.sampling.max_new_tokens
    if limit < 1:
        raise UserError(
            f"{config.sampling.max_new_tokens} leaves no room for a prompt in the model's context "
            f"of {context} tokens",
            where="sampling.max_new_tokens",
        )
    rows = _tokenized([*train, *held_out], tokenizer, limit)
    return PromptSet(rows[: len(train)], rows[len(train) :])


@dataclass(frozen=True)
class _Row:
    text: str
    answer: str | None
    where: str


def _bundled(config: PromptsConfig, held_out: int) -> tuple[list[_Row], list[_Row]]:
    """The split's problems; the seed is fixed, so that runs differ in their samples alone."""

    def rows(count: int, split: Any) -> list[_Row]:
        try:
            made = problems(count, seed=0, split=split, steps=config.problem_steps)
        except ValueError as error:
            raise UserError(str(error), where="prompts") from None
        return [_Row(p.prompt, p.answer, f"{split} problem {i}") for i, p in enumerate(made)]

    return rows(config.count, "train"), rows(held_out, "eval")


def _from_files(config: PromptsConfig, held_out: int, seed: int) -> tuple[list[_Row], list[_Row]]:
    rows = _read(Path(config.source).expanduser(), "prompts.source")
    if config.eval_source is not None:
        others = _read(Path(config.eval_source).expanduser(), "prompts.eval_source")
        return rows[: config.count], others[:held_out]
    if len(rows) < 2:
        raise UserError(
            f"{config.source} has {len(rows)} prompt; at least 2 are needed to hold one out "
            "(or give prompts.eval_source)",
            where="prompts.source",
            kind="bad data",
        )
    random.Random(f"split/{seed}").shuffle(rows)
    share = max(1, min(held_out, round(len(rows) * config.eval_share)))
    return rows[share:][: config.count], rows[:share]


def _read(path: Path, field: str) -> list[_Row]:
    """Rows of a JSON-lines file: `prompt` (text), optional `answer` (text or number)."""
    try:
        with path.open(encoding="utf-8") as lines:
            rows = [_row(line, f"{path}:{n}") for n, line in enumerate(lines, 1) if line.strip()]
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}", where=field, kind="bad data"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason}", where=field, kind="bad data"
        ) from None
    if not rows:
        raise UserError(f"{path} holds no prompts", where=field, kind="bad data")
    return rows


def _row(line: str, where: str) -> _Row:
    if len(line) > MAX_LINE_BYTES:
        raise _bad(where, f"the line is longer than {MAX_LINE_BYTES} characters")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise _bad(where, "must be a JSON object")
    prompt, answer = data.get("prompt"), data.get("answer")
    if not isinstance(prompt, str) or not prompt:
        given = "is missing" if "prompt" not in data else f"must be non-empty text (got {prompt!r})"
        raise _bad(where, f"prompt {given:.200}")
    if not prompt.isprintable() and _has_surrogates(prompt):
        raise _bad(where, "prompt holds half a character (a lone surrogate)")
    if isinstance(answer, bool) or not isinstance(answer, str | int | float | None):
        raise _bad(where, f"answer must be text or a number (got {answer!r:.100})")
    return _Row(prompt, None if answer is None else str(answer), where)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _bad(where: str, message: str) -> UserError:
    return UserError(message, where=where, kind="bad data")


def _tokenized(rows: list[_Row], tokenizer: Any, limit: int) -> list[Prompt]:
    """Adds token ids; what the tokenizer puts first by itself (a BOS) belongs to the prompt."""
    encoded = tokenizer([r.text for r in rows], add_special_tokens=True)["input_ids"]
    prompts = []
    for number, (row, ids) in enumerate(zip(rows, encoded, strict=True)):
        if not ids:
            raise _bad(row.where, "the prompt has no tokens")
        if len(ids) > limit:
            raise _bad(
                row.where,
                f"the prompt has {len(ids)} tokens; the model's context leaves "
                f"room for {limit} beside sampling.max_new_tokens",
            )
        prompts.append(Prompt(number, row.text, tuple(ids), row.answer))
    return prompts
