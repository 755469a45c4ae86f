"""A row's correct answer as text; several right ones as one JSON list of texts."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from opd.config.templates import as_text
from opd.data.rows import bad_data
from opd.grading.graders import AS_JSON

LISTS = ("aliases", "text")  # of TriviaQA's and SQuAD's answers


def answer_of(value: Any, grader: str, where: str) -> str | None:
    """Text or number as text; for the graders json and tool_call any value as JSON.

    Raises UserError, naming the row, for what no completion could equal.
    """
    if grader in AS_JSON:
        if value is None or isinstance(value, str):
            return value
        return as_text(value) or json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, Mapping):
        value = _listed(value)
    if isinstance(value, list):
        return several([_single(item, where) for item in _non_empty(value, where)])
    return None if value is None else _single(value, where)


def several(answers: Sequence[str]) -> str:
    """Right answers as the one text that stands for them; `right_answers` gives them back."""
    distinct = list(dict.fromkeys(answers))
    return distinct[0] if len(distinct) == 1 else json.dumps(distinct, ensure_ascii=False)


def _listed(answer: Mapping[str, Any]) -> Any:
    """The answers of {value, aliases} and of {text, answer_start}; all else as it is."""
    for name in LISTS:
        if isinstance(answer.get(name), list):
            first = [answer["value"]] if answer.get("value") is not None else []
            return [*first, *answer[name]]
    return dict(answer)


def _non_empty(answers: list[Any], where: str) -> list[Any]:
    if not answers:
        raise bad_data(where, "answer is an empty list; leave it out, or give a right answer")
    return answers


def _single(value: Any, where: str) -> str:
    text = as_text(value)
    if text is None:
        raise bad_data(
            where,
            "answer must be text or a number, or a list of them; write it as text, or name a "
            f"value within it, such as answer.value, in columns.answer (got {value!r:.100})",
        )
    return text
