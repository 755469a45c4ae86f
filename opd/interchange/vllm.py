"""Answers of vLLM with `prompt_logprobs` as rows of token records.

A line is one answer of the completions or the chat route, or one offline request output, or a
pair {"student": …, "teacher": …} of what the student generated and what the teacher said of it.
`prompt_logprobs` has one entry per token: null for the first, else {"ID": {"logprob", "rank",
"decoded_token"}} of the k likeliest and of the token itself. Its ranks count from 1, ours from 0.

Source: vLLM, vllm/logprobs.py and vllm/entrypoints/openai/protocol.py.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from opd.errors import ErrorKind, UserError
from opd.interchange.jsonl import FINISH_REASONS, MAX_ID, check_ids, finite
from opd.interchange.optional_fields import shown
from opd.vllm_protocol import LOWEST, ROUNDING

FLOORED = f"log-probabilities of -Infinity were taken as {LOWEST:g}, as vLLM's server writes them"
OWN_FIELDS = (  # of ours, that a line may have beside the answers
    *("step", "kind", "group", "sample", "reward", "answer", "temperature", "author", "mask"),
    *("prompt", "completion", "finish_reason"),
)
TOKEN_ID = re.compile(r"token_id:(\d{1,10})")  # vLLM's --return-tokens-as-token-ids

Row = dict[str, Any]
Pair = list[Any]  # id and log-probability


def is_answer(data: Any) -> bool:
    """Whether a line has the form of an answer; our own have the teacher's name in "teacher"."""
    if not isinstance(data, dict):
        return False
    paired = "teacher" in data and not isinstance(data["teacher"], str)
    return paired or bool({"prompt_logprobs", "choices", "meta_info"} & set(data))


@dataclass(frozen=True)
class Answers:
    """Reads lines. `prompt_tokens` is where completions start, for lines that do not say so.

    `texts` grows by every token's text that an answer gives, by id.
    """

    path: str
    prompt_tokens: int | None = None
    texts: dict[int, str] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)  # what was changed, and how often

    def rows(self, lines: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
        """A row for each choice of each line, under its line's number. Raises UserError."""
        for number, data in lines:
            line = _Line(data, f"{self.path}, line {number}", self)
            for row in line.rows():
                yield number, row


@dataclass(frozen=True)
class _Scores:
    """What one model said of the completion."""

    logprobs: list[float]
    ranks: list[int] | None = None  # from 0
    top: list[list[Pair]] | None = None
    texts: list[str] | None = None


@dataclass(frozen=True)
class _Entry:
    """One id at one position."""

    logprob: float
    rank: int | None  # from 1
    text: str | None


@dataclass(frozen=True)
class _Line:
    data: Row
    where: str
    answers: Answers

    def rows(self) -> Iterator[Row]:
        paired = "teacher" in self.data
        teachers = self._choices("teacher", self.data["teacher"] if paired else self.data)
        students: list[Row | None] = [None] * len(teachers)
        if self.data.get("student") is not None:
            students = list(self._choices("student", self.data["student"]))
        if len(students) != len(teachers):
            self._fail("student", f"has {len(students)} choices where teacher has {len(teachers)}")
        for i, (student, teacher) in enumerate(zip(students, teachers, strict=True)):
            yield self._row(i, student, teacher)

    def _row(self, i: int, student: Row | None, teacher: Row) -> Row:
        ids, start = self._sequence(i, student, teacher)
        said = self._scored("teacher", teacher, (ids, start))
        row = {name: self.data[name] for name in OWN_FIELDS if self.data.get(name) is not None}
        row |= {"prompt_token_ids": ids[:start], "completion_token_ids": ids[start:]}
        row |= {"teacher_logprobs": said.logprobs, "teacher_rank": said.ranks}
        row |= {"teacher_topk": said.top, "completion_tokens": said.texts}
        if student is not None:
            row |= self._students(student, (ids, start))
        texts = self.answers.texts
        rest = "".join(texts.get(token, "") for token in ids[1:start])
        prompt = row.setdefault("prompt", texts.get(ids[0], "") + rest)
        complete = all(token in texts for token in ids[1:start])
        if complete and isinstance(prompt, str) and prompt.endswith(rest):
            # The first token's own text is never given.
            texts.setdefault(ids[0], prompt[: len(prompt) - len(rest)])
        if "completion" not in row:
            row["completion"] = "".join(said.texts or (texts.get(t, "") for t in ids[start:]))
        return row

    def _students(self, student: Row, sequence: tuple[list[int], int]) -> Row:
        """The student's columns: from `prompt_logprobs` of the whole, else as it generated."""
        row: Row = {}
        ids, start = sequence
        entries = student.get("prompt_logprobs")
        generated = self._generated(student, ids[start:])
        if isinstance(entries, list) and len(entries) == len(ids):
            said = self._scored("student", student, sequence)
            row = {"student_logprobs": said.logprobs, "student_topk": said.top}
            if generated is not None:
                row["sampler_logprobs"] = generated.logprobs
        elif generated is not None:
            row = {"student_logprobs": generated.logprobs, "student_topk": generated.top}
        reason = student.get("finish_reason")
        if reason in FINISH_REASONS:
            row["finish_reason"] = self.data.get("finish_reason") or reason
        message = student.get("message")
        text = message.get("content") if isinstance(message, dict) else student.get("text")
        if isinstance(text, str) and text and "completion" not in self.data:
            row["completion"] = text
        return row

    def _choices(self, side: str, answer: Any) -> list[Row]:
        """The answer's choices, each with what stands for all of them beside it."""
        if not isinstance(answer, dict):
            self._fail(side, f"must be an answer, a JSON object (got {shown(answer)})")
        common = {n: answer[n] for n in ("prompt_logprobs", "prompt_token_ids") if n in answer}
        choices = answer.get("choices", answer.get("outputs", [{}]))
        if not isinstance(choices, list) or not choices:
            self._fail(f"{side}.choices", f"must be a list of choices (got {shown(choices)})")
        for i, choice in enumerate(choices):
            if not isinstance(choice, dict):
                self._fail(f"{side}.choices[{i}]", f"must be an object (got {shown(choice)})")
        return [common | {n: v for n, v in choice.items() if v is not None} for choice in choices]

    def _sequence(self, i: int, student: Row | None, teacher: Row) -> tuple[list[int], int]:
        """All token ids, and how many of them are the prompt."""
        prompt = self._ids("student.prompt_token_ids", (student or {}).get("prompt_token_ids"))
        completion = self._ids("student.token_ids", (student or {}).get("token_ids"))
        scored = self._ids("prompt_token_ids", teacher.get("prompt_token_ids"))
        joined = prompt + completion if prompt and completion else None
        if scored and joined and scored != joined:
            self._fail("teacher.prompt_token_ids", "are not the student's prompt and completion")
        ids = scored or joined
        if not ids:
            echo = "this is an echo, which names tokens by their texts; "
            self._fail(
                "prompt_token_ids",
                f"is missing: {echo if _is_echo(teacher) else ''}ask the server for it "
                "(return_token_ids: true), or write the ids that were sent into the line",
            )
        return ids, self._start(i, prompt, len(ids))

    def _start(self, i: int, prompt: list[int] | None, total: int) -> int:
        given = self.data.get("prompt_length")
        if isinstance(given, list):
            given = given[i] if i < len(given) else None
        if given is None:
            given = len(prompt) if prompt else self.answers.prompt_tokens
        if given is None:
            self._fail(
                "prompt_length",
                "is missing: say at which token the completion starts, in the line or with "
                "--prompt-tokens",
            )
        if type(given) is not int or not 1 <= given < total:
            self._fail(
                "prompt_length",
                f"must be 1 to {total - 1}, as {total} tokens were scored (got {shown(given)})",
            )
        return int(given)

    def _scored(self, side: str, choice: Row, sequence: tuple[list[int], int]) -> _Scores:
        ids, start = sequence
        name = f"{side}.prompt_logprobs" if "teacher" in self.data else "prompt_logprobs"
        entries = choice.get("prompt_logprobs")
        if not isinstance(entries, list):
            self._fail(name, f"must be a list with one entry per token (got {shown(entries)})")
        if len(entries) != len(ids):
            self._fail(name, f"has {len(entries)} entries for {len(ids)} tokens")
        read = [self._entry(f"{name}[{i}]", entries[i]) for i in range(1, len(ids))]
        sampled: list[_Entry] = []
        for at in range(start, len(ids)):
            if ids[at] not in read[at - 1]:
                self._fail(f"{name}[{at}]", f"has no entry of token {ids[at]}, which stands there")
            sampled.append(read[at - 1][ids[at]])
        ranks = [e.rank - 1 for e in sampled if e.rank is not None]
        texts = [e.text for e in sampled if e.text is not None]
        return _Scores(
            [e.logprob for e in sampled],
            ranks if len(ranks) == len(sampled) else None,
            _likeliest(read[start - 1 :], ids[start:]),
            texts if len(texts) == len(sampled) else None,
        )

    def _entry(self, where: str, entry: Any) -> dict[int, _Entry]:
        if not isinstance(entry, dict) or not entry:
            self._fail(where, f"must be an object of token ids (got {shown(entry)})")
        entries: dict[int, _Entry] = {}
        for key, value in entry.items():
            if not (key.isascii() and key.isdigit() and len(key) <= 10 and int(key) <= MAX_ID):
                self._fail(where, f"must be by token id, 0 to {MAX_ID} (got {shown(key)})")
            if not isinstance(value, dict):
                self._fail(f"{where}.{key}", f"must be an object (got {shown(value)})")
            rank, text = value.get("rank"), value.get("decoded_token")
            if rank is not None and (type(rank) is not int or not 1 <= rank <= MAX_ID):
                self._fail(f"{where}.{key}.rank", f"must be 1 to {MAX_ID} (got {shown(rank)})")
            logprob = self._logprob(f"{where}.{key}.logprob", value.get("logprob"))
            entries[int(key)] = _Entry(logprob, rank, text if isinstance(text, str) else None)
            if isinstance(text, str):
                self.answers.texts.setdefault(int(key), text)
        return entries

    def _generated(self, choice: Row, ids: list[int]) -> _Scores | None:
        """The log-probabilities that came with the completion as it was sampled."""
        given = choice.get("logprobs")
        if not isinstance(given, dict):
            return None
        content = given.get("content")
        values, tokens = given.get("token_logprobs"), given.get("tokens")
        if isinstance(content, list):
            items = [item if isinstance(item, dict) else {} for item in content]
            values, tokens = [c.get("logprob") for c in items], [c.get("token") for c in items]
        where = "student.logprobs"
        if not isinstance(values, list) or len(values) != len(ids):
            count = len(values) if isinstance(values, list) else "no"
            self._fail(where, f"has {count} log-probabilities for {len(ids)} completion tokens")
        for i, token in enumerate(tokens if isinstance(tokens, list) else []):
            match = TOKEN_ID.fullmatch(token) if isinstance(token, str) else None
            if match and i < len(ids) and int(match[1]) != ids[i]:
                self._fail(f"{where}[{i}]", f"is of token {match[1]}, and {ids[i]} stands there")
        return _Scores([self._logprob(f"{where}[{i}]", v) for i, v in enumerate(values)])

    def _logprob(self, where: str, value: Any) -> float:
        if value == -math.inf:
            changes = self.answers.changes
            changes[FLOORED] = changes.get(FLOORED, 0) + 1
            return LOWEST
        if not finite(value) or value > ROUNDING:
            self._fail(where, f"must be a number of at most 0 (got {shown(value)})")
        return min(float(value), 0.0)

    def _ids(self, where: str, values: Any) -> list[int]:
        if values is None:
            return []
        if not isinstance(values, list):
            self._fail(where, f"must be a list of token ids (got {shown(values)})")
        check_ids(where, values, self._fail)
        return values

    def _fail(self, name: str, message: str) -> NoReturn:
        raise UserError(message, where=f"{self.where}, {name}", kind=ErrorKind.BAD_DATA)


def _is_echo(choice: Row) -> bool:
    """Whether a choice has the log-probabilities of OpenAI's completions with `echo`."""
    given = choice.get("logprobs")
    return isinstance(given, dict) and "token_logprobs" in given


def _likeliest(read: list[dict[int, _Entry]], ids: list[int]) -> list[list[Pair]] | None:
    """As many of the likeliest as every position has, likeliest first; None where that is none.

    The token itself stands beside them where it is none of them: its rank then exceeds the number
    of entries.
    """
    lists: list[list[Pair]] = []
    for entry, token in zip(read, ids, strict=True):
        rank = entry[token].rank
        beside = rank is None or rank > len(entry)
        among = [(i, e) for i, e in entry.items() if not (beside and i == token)]
        among.sort(key=lambda item: (-item[1].logprob, item[1].rank or MAX_ID))
        lists.append([[i, e.logprob] for i, e in among])
    k = min(map(len, lists))
    return [pairs[:k] for pairs in lists] if k else None
