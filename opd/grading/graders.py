"""Verifiable rewards: does a completion give the right answer?

Graders look at the answer that follows the reasoning (`final`), and at no more than its last
MAX_TEXT characters, so that no text makes a pattern run for hours.
"""

import json
import re
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from opd.config.json_schema import children
from opd.errors import ErrorKind, UserError
from opd.grading.final_answer import (
    final,
    harmony_calls,
    last_boxed,
    plain_fractions,
    plain_numbers,
)
from opd.grading.math_process import as_latex, judge

if TYPE_CHECKING:
    from opd.config.data import DataConfig

MAX_TEXT = 20_000
MAX_JSON_DEPTH = 100
AS_JSON = ("json", "tool_call")  # graders whose answer is a JSON value
# What sympy, jsonschema and re raise where they fail for reasons of their own.
FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    re.error,
)

NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]])[-+−])?[$€£]?"
    r"(?P<value>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE](?P<exponent>[-+]?[0-9]{1,3})(?!\w|\.[0-9])"
    r"|\s?/\s?(?P<below>[0-9]+)(?![0-9]|\.[0-9]))?"
    r"(?P<percent>\s?\\?%)?"
)
MAX_DIGITS = 1_000
FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL)
CALL = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def grade(data: "DataConfig", completion: str, answer: str | None) -> float | None:
    """1.0 for right, 0.0 for wrong; None without a grader or without anything to compare with.

    Of several right answers (`right_answers`), one is enough. Only the grader json works without
    an answer. Raises UserError where the grader itself fails.
    """
    if data.grader == "none" or (answer is None and data.grader != "json"):
        return None
    answers = right_answers(data.grader, answer or "")
    try:
        if data.grader == "exact":
            return max(exact(completion, a) for a in answers)
        if data.grader == "tool_call":
            return float(_tool_call(completion, answers[0]))
        text = final(completion)[-MAX_TEXT:]
        return float(any(GRADERS[data.grader](data, text, a) for a in answers))
    except FAILURES as error:
        raise _failed(data.grader, completion, error) from error


def exact(completion: str, answer: str) -> float:
    """1.0 when the text after the reasoning is the answer."""
    return float(final(completion) == answer.strip())


def right_answers(grader: str, answer: str) -> tuple[str, ...]:
    """The right answers that a text stands for: several as a JSON list of texts, else itself.

    For json and tool_call a list is one answer.
    """
    if grader in AS_JSON or not answer.lstrip().startswith('["'):
        return (answer,)
    try:
        answers = json.loads(answer)
    except (ValueError, RecursionError):
        return (answer,)
    texts = isinstance(answers, list) and all(isinstance(a, str) for a in answers)
    return tuple(answers) if texts else (answer,)


def find(pattern: str, text: str) -> str | None:
    """The last group of a pattern's last match, or the match without groups; None without one."""
    last = None
    for match in re.finditer(pattern, text):
        last = match
    if last is None:
        return None
    groups = [g for g in last.groups() if g is not None]
    return str(groups[-1] if groups else last[0]).strip()


def problem_of(data: "DataConfig", answer: str) -> str | None:
    """What keeps an answer of the data from ever being given, in words; None for a usable one."""
    shown = repr(answer[:100])
    if data.grader == "numeric" and _number_in(answer) is None:
        return f"answer must contain a number (grader numeric; got {shown})"
    if data.grader == "math" and not judge(as_latex(plain_numbers(answer)), None):
        return f"answer cannot be read by math-verify (got {shown})"
    if data.grader in AS_JSON:
        try:
            value = _json(answer)
        except ValueError as error:
            return f"answer must be JSON (grader {data.grader}; {error}; got {shown})"
        if data.grader == "tool_call" and _calls(value) is None:
            return f'answer must be {{"name": …, "arguments": …}} or a list of them (got {shown})'
    return None


def last_number(text: str) -> tuple[Fraction, bool] | None:
    """The last number in a text, exactly, and whether a percent sign follows it.

    Takes thousands separators (1,234), signs, decimals, 1e-3, fractions (3/4) and a currency sign.
    """
    last = None
    for match in NUMBER.finditer(text):
        last = _number(match) or last
    return last


def _failed(grader: str, completion: str, error: Exception) -> UserError:
    return UserError(
        f"the grader {grader} failed ({type(error).__name__}: {str(error)[:200]}) on the "
        f"completion {completion[:100]!r}",
        where="prompts.grader",
        kind=ErrorKind.GRADER_FAILED,
    )


def _regex(data: "DataConfig", text: str, answer: str) -> bool:
    return find(data.answer_pattern or "", text) == answer.strip()


def _number(match: re.Match[str]) -> tuple[Fraction, bool] | None:
    digits = match["value"].replace(",", "")
    below = match["below"] or "1"
    if len(digits) > MAX_DIGITS or len(below) > MAX_DIGITS or not int(below):
        return None
    value = Fraction(f"{digits}e{match['exponent'] or 0}") / int(below)
    negative = match["sign"] is not None and match["sign"] != "+"
    return -value if negative else value, match["percent"] is not None


def _number_in(text: str) -> tuple[Fraction, bool] | None:
    r"""The last number, in the last \boxed{} where there is one."""
    boxed = last_boxed(text)
    return last_number(plain_fractions(text if boxed is None else boxed))


def _numeric(data: "DataConfig", text: str, answer: str) -> bool:
    """|number − answer| ≤ tolerance, in exact arithmetic.

    Where only one of both is a percentage, it may stand for itself or for its hundredth: 50% is
    50, and is 0.5.
    """
    if data.answer_pattern is not None:
        text = find(data.answer_pattern, text) or ""
    given, right = _number_in(text), _number_in(answer)
    if given is None or right is None:
        return False
    tolerance = Fraction(str(data.tolerance))
    difference = abs(given[0] - right[0])
    if given[1] != right[1]:
        scales = (Fraction(1, 100), 1) if given[1] else (1, Fraction(1, 100))
        other = abs(given[0] * scales[0] - right[0] * scales[1])
        difference = min(difference, other)
    return difference <= tolerance


def _math(data: "DataConfig", text: str, answer: str) -> bool:
    r"""Of several boxes the last one counts; one without an end, or empty, is no answer."""
    boxed, right = last_boxed(text), last_boxed(answer)
    if boxed is not None:
        if not boxed.strip():
            return False
        text = f"\\boxed{{{boxed}}}"
    return judge(plain_numbers(text), plain_numbers(right or answer))


def _json_grader(data: "DataConfig", text: str, answer: str) -> bool:
    try:
        value = _json(_unfenced(text))
    except ValueError:
        return False
    if data.json_schema is not None and not _satisfies(value, data.json_schema):
        return False
    return not answer or _same(value, _json(answer))


def _satisfies(value: Any, schema: dict[str, Any]) -> bool:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only where a schema is given
    from referencing import Registry  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415

    try:  # the empty registry fetches nothing
        return bool(Draft202012Validator(schema, registry=Registry()).is_valid(value))
    except Unresolvable as error:
        raise ValueError(f"unresolvable reference {error}") from None


def _tool_call(completion: str, answer: str) -> bool:
    """The calls of harmony's channels, of <tool_call> tags, or the whole text as JSON."""
    text = final(completion)[-MAX_TEXT:]
    tagged = CALL.findall(text)
    try:
        if channels := harmony_calls(completion[-MAX_TEXT:]):
            value: Any = [{"name": n, "arguments": _json(a)} for n, a in channels]
        elif tagged:
            value = [_json(call) for call in tagged]
        else:
            value = _json(_unfenced(text))
    except ValueError:
        return False
    given = _calls(value)
    return given is not None and _same(given, _calls(_json(answer)))


def _calls(value: Any) -> list[dict[str, Any]] | None:
    """[{name, arguments}, …] of one call or a list of them; None for anything else."""
    calls = []
    for call in value if isinstance(value, list) else [value]:
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return None
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):  # as OpenAI's API writes them
            try:
                arguments = _json(arguments)
            except ValueError:
                return None
        calls.append({"name": call["name"], "arguments": arguments})
    return calls or None


def _unfenced(text: str) -> str:
    fence = FENCE.fullmatch(text)
    return fence[1] if fence else text


def _json(text: str) -> Any:
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


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 is 1.0, but true is not 1; objects in any order."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


GRADERS: dict[str, Callable[["DataConfig", str, str], bool]] = {
    "regex": _regex,
    "numeric": _numeric,
    "math": _math,
    "json": _json_grader,
}
