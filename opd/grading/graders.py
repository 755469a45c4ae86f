"""Verifiable rewards: does a completion give the right answer?

What a grader compares, `opd.grading.extraction` takes out of the completion.
"""

import json
import re
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from opd.errors import ErrorKind, UserError
from opd.grading.extraction import Number, calls_of, extract, number_in, parse_json
from opd.grading.final_answer import final, last_boxed, plain_numbers
from opd.grading.math_process import as_latex, judge

if TYPE_CHECKING:
    from opd.config.data import DataConfig

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


def grade(data: "DataConfig", completion: str, answer: str | None) -> float | None:
    """1.0 for right, 0.0 for wrong; None without a grader or without anything to compare with.

    Of several right answers (`right_answers`), one is enough. Only the grader json works without
    an answer. Raises UserError where the grader itself fails.
    """
    if data.grader == "none" or (answer is None and data.grader != "json"):
        return None
    answers = right_answers(data.grader, answer or "")
    try:
        given = extract(data.grader, data.answer_pattern, completion).value
        if given is None:
            return 0.0
        return float(any(GRADERS[data.grader](data, given, a) for a in answers))
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


def problem_of(data: "DataConfig", answer: str) -> str | None:
    """What keeps an answer of the data from ever being given, in words; None for a usable one."""
    shown = repr(answer[:100])
    if data.grader == "numeric" and number_in(answer) is None:
        return f"answer must contain a number (grader numeric; got {shown})"
    if data.grader == "math" and not judge(as_latex(plain_numbers(answer)), None):
        return f"answer cannot be read by math-verify (got {shown})"
    if data.grader in AS_JSON:
        try:
            value = parse_json(answer)
        except ValueError as error:
            return f"answer must be JSON (grader {data.grader}; {error}; got {shown})"
        if data.grader == "tool_call" and calls_of(value) is None:
            return f'answer must be {{"name": …, "arguments": …}} or a list of them (got {shown})'
    return None


def _failed(grader: str, completion: str, error: Exception) -> UserError:
    return UserError(
        f"the grader {grader} failed ({type(error).__name__}: {str(error)[:200]}) on the "
        f"completion {completion[:100]!r}",
        where="prompts.grader",
        kind=ErrorKind.GRADER_FAILED,
    )


def _text(data: "DataConfig", given: str, answer: str) -> bool:
    return given == answer.strip()


def _numeric(data: "DataConfig", given: Number, answer: str) -> bool:
    """|number − answer| ≤ tolerance, in exact arithmetic.

    Where only one of both is a percentage, it may stand for itself or for its hundredth: 50% is
    50, and is 0.5.
    """
    right = number_in(answer)
    if right is None:
        return False
    tolerance = Fraction(str(data.tolerance))
    difference = abs(given.value - right.value)
    if given.percent != right.percent:
        scales = (Fraction(1, 100), 1) if given.percent else (1, Fraction(1, 100))
        other = abs(given.value * scales[0] - right.value * scales[1])
        difference = min(difference, other)
    return difference <= tolerance


def _math(data: "DataConfig", given: str, answer: str) -> bool:
    return judge(plain_numbers(given), plain_numbers(last_boxed(answer) or answer))


def _json_grader(data: "DataConfig", given: str, answer: str) -> bool:
    try:
        value = parse_json(given)
    except ValueError:
        return False
    if data.json_schema is not None and not _satisfies(value, data.json_schema):
        return False
    return not answer or _same(value, parse_json(answer))


def _satisfies(value: Any, schema: dict[str, Any]) -> bool:
    from jsonschema import Draft202012Validator  # noqa: PLC0415 - only where a schema is given
    from referencing import Registry  # noqa: PLC0415
    from referencing.exceptions import Unresolvable  # noqa: PLC0415

    try:  # the empty registry fetches nothing
        return bool(Draft202012Validator(schema, registry=Registry()).is_valid(value))
    except Unresolvable as error:
        raise ValueError(f"unresolvable reference {error}") from None


def _tool_call(data: "DataConfig", given: list[dict[str, Any]], answer: str) -> bool:
    return _same(given, calls_of(parse_json(answer)))


def _same(a: Any, b: Any) -> bool:
    """Equal as JSON: 1 is 1.0, but true is not 1; objects in any order."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


# (data, what `extract` took, the answer) → whether it is right
GRADERS: dict[str, Callable[["DataConfig", Any, str], bool]] = {
    "exact": _text,
    "regex": _text,
    "numeric": _numeric,
    "math": _math,
    "json": _json_grader,
    "tool_call": _tool_call,
}
