"""What the run's grader took out of stored completions: by the grading's own code, from the text
that was graded, which has the marks of reasoning that a stored completion lacks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection

from opd.grading.extraction import Extraction, extract
from opd.grading.final_answer import MARKERS, graded_text
from opd.grading.graders import FAILURES
from storage.vocabulary import read_texts


@dataclass(frozen=True)
class StoredCompletion:
    text: str
    ids: NDArray[Any] | None  # None where the record cannot be read


def read_extractions(
    connection: Connection,
    config: Mapping[str, Any],
    tokenizer: str,
    completions: Mapping[str, StoredCompletion],
) -> dict[str, Extraction]:
    """By rollout id; `config` and `tokenizer` are the run's."""
    prompts = config.get("prompts") or {}
    grader, pattern = str(prompts.get("grader") or "none"), prompts.get("answer_pattern")
    if grader == "none":
        return {key: extract(grader, pattern, "") for key in completions}
    texts = _graded_texts(connection, tokenizer, completions)
    return {key: _extracted(grader, pattern, text) for key, text in texts.items()}


def _extracted(grader: str, pattern: str | None, text: str) -> Extraction:
    try:
        return extract(grader, pattern, text)
    except FAILURES as error:
        return Extraction(None, f"the grader {grader} failed ({type(error).__name__})")


def _graded_texts(
    connection: Connection, tokenizer: str, completions: Mapping[str, StoredCompletion]
) -> dict[str, str]:
    listed = [c.ids for c in completions.values() if c.ids is not None and len(c.ids)]
    ids = np.unique(np.concatenate(listed)).tolist() if listed else []
    texts = read_texts(connection, tokenizer, ids)
    marks = [
        i
        for i, (data, special) in texts.items()
        if special and data.decode(errors="replace") in MARKERS
    ]
    return {
        key: graded_text(c.text, [texts[i] for i in c.ids.tolist() if i in texts])
        if c.ids is not None and marks and np.isin(c.ids, marks).any()
        else c.text
        for key, c in completions.items()
    }
