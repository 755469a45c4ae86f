"""What a grader takes out of a completion to compare with the correct answer.

`opd.grading.graders` compares exactly what `extract` returns, so that a page which shows it shows
what was graded.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

from opd.config.json_schema import children
from opd.grading.final_answer import final, harmony_calls, last_boxed, plain_fractions

MAX_TEXT = 20_000  # characters; no text makes a pattern run for hours
MAX_JSON_DEPTH = 100
FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]])[-+−])?[$€£]?"
    r"(?P<value>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,3})(?!\w|\.[0-9])"
    r"|\s?/\s?(?P<below>[0-9]+)(?![0-9]|\.[0-9]))?"
    r"(?P<percent>\s?\\?%)?"
)
MAX_DIGITS = 1_000
NO_MATCH = "no match of prompts.answer_pattern"
NO_CALL = "no tool call that can be read"


@dataclass(frozen=True)
class Extraction:
    """`text`: what was extracted, in words; None for nothing, and `note` says why. `value`: what
    the grader compares; None where no answer can be right."""

    text: str | None
    note: str = ""
    value: Any = None


class Number(NamedTuple):
    value: Fraction
    percent: bool
    text: str  # as it was written


def extract(grader: str, pattern: str | None, completion: str) -> Extraction:
    """What the grader compares; `pattern` is prompts.answer_pattern. Raises as `re` does."""
    take = _TAKE.get(grader)
    if take is None:
        return Extraction(None, "no grader, so nothing is extracted")
    return take(pattern, completion)


def find(pattern: str, text: str) -> str | None:
    """The last group of a pattern's last match, or the match without groups; None without one."""
    last = None
    for match in re.finditer(pattern, text):
        last = match
    if last is None:
        return None
    groups = [g for g in last.groups() if g is not None]
    return str(groups[-1] if groups else last[0]).strip()


def last_number(text: str) -> Number | None:
    """The last number in a text, exactly, and whether a percent sign follows it.

    Takes thousands separators (1,234), signs, decimals, 1e-3, fractions (3/4) and a currency sign.
    """
    last = None
    for match in NUMBER.finditer(text):
        last = _number(match) or last
    return last


def number_in(text: str) -> Number | None:
    r"""The last number, in the last \boxed{} where there is one."""
    boxed = last_boxed(text)
    return last_number(plain_fractions(text if boxed is None else boxed))


def _number(match: re.Match[str]) -> Number | None:
    digits = match["value"].replace(",", "")
    below = match["below"] or "1"
    if len(digits) > MAX_DIGITS or len(below) > MAX_DIGITS or not int(below):
        return None
    value = Fraction(f"{digits}e{match['exponent'] or 0}") / int(below)
    negative = match["sign"] is not None and match["sign"] != "+"
    return Number(-value if negative else value, match["percent"] is not None, match[0])


def parse_json(text: str) -> Any:
    """Raises ValueError for what is not JSON, numbers that JSON has not, and for deep nesting."""

    def no_number(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    try:
        value = json.loads(text, parse_constant=no_number)
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}") from None
    level = [value]
    for _ in range(MAX_JSON_DEPTH):
        level = [child for node in level for child in children(node)]
    if level:
        raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}")
    return value


def calls_of(value: Any) -> list[dict[str, Any]] | None:
    """[{name, arguments}, …] of one call or a list of them; None for anything else."""
    calls = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):  # as OpenAI's API writes them
            try:
                arguments = parse_json(arguments)
            except ValueError:
                return None
        calls.append({"name": call["name"], "arguments": arguments})
    return calls or None


def _answering(completion: str) -> str:
    return final(completion)[-MAX_TEXT:]


def _exact(pattern: str | None, completion: str) -> Extraction:
    text = final(completion)
    return Extraction(text, value=text)


def _regex(pattern: str | None, completion: str) -> Extraction:
    text = find(pattern or "", _answering(completion))
    return Extraction(text, "" if text is not None else NO_MATCH, text)


def _numeric(pattern: str | None, completion: str) -> Extraction:
    text: str | None = _answering(completion)
    if pattern is not None and (text := find(pattern, text or "")) is None:
        return Extraction(None, NO_MATCH)
    number = number_in(text or "")
    return Extraction(None, "no number") if number is None else Extraction(number[2], "", number)


def _math(pattern: str | None, completion: str) -> Extraction:
    r"""Of several boxes the last one counts; one without an end, or empty, is no answer."""
    text = _answering(completion)
    boxed = last_boxed(text)
    if boxed is None:
        return Extraction(None, r"no \boxed{}: math-verify reads the end of the text", text)
    if not boxed.strip():
        return Extraction(None, r"\boxed{} is empty or has no end")
    return Extraction(boxed, value=f"\\boxed{{{boxed}}}")


def _json(pattern: str | None, completion: str) -> Extraction:
    text = _answering(completion)
    fence = FENCE.fullmatch(text)
    text = fence[1] if fence else text
    return Extraction(text, value=text)


def _tool_call(pattern: str | None, completion: str) -> Extraction:
    """The calls of harmony's channels, of <tool_call> tags, or the whole text as JSON."""
    text = _answering(completion)
    tagged = CALL.findall(text)
    try:
        if channels := harmony_calls(completion[-MAX_TEXT:]):
            value: Any = [{"name": n, "arguments": parse_json(a)} for n, a in channels]
        elif tagged:
            value = [parse_json(call) for call in tagged]
        else:
            value = parse_json(_json(pattern, completion).value)
    except ValueError:
        return Extraction(None, NO_CALL)
    calls = calls_of(value)
    if calls is None:
        return Extraction(None, NO_CALL)
    return Extraction(json.dumps(calls, ensure_ascii=False), value=calls)


_TAKE: dict[str, Callable[[str | None, str], Extraction]] = {
    "exact": _exact,
    "regex": _regex,
    "numeric": _numeric,
    "math": _math,
    "json": _json,
    "tool_call": _tool_call,
}
