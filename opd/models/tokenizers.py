"""Tokenizers: loading, which ids two of them share, and how they are named."""

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from opd.config.gguf.header import is_gguf
from opd.errors import ErrorKind, UserError, one_line
from opd.models.gguf import load_gguf_tokenizer

TEACHER = "teacher.model"


def load_tokenizer(folder: Path, *, where: str) -> Any:
    """The tokenizer of a folder or GGUF file. Raises UserError without a usable one."""
    if is_gguf(folder):
        return load_gguf_tokenizer(folder, where=where)
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} has no usable tokenizer: {one_line(error)}",
            where=where,
            kind=ErrorKind.MISSING_MODEL,
        ) from None


def shared_vocabulary(
    student: Any, teacher: Any, student_logits: int, teacher_logits: int, *, where: str = TEACHER
) -> int:
    """How many leading ids both models can produce. Raises UserError when an id's text differs.

    Families pad their vocabularies differently (151,936 and 152,064): the longer one is cut, and
    the distributions renormalised over what is shared.
    """
    shared = min(student_logits, teacher_logits)
    different = differing_ids(student, teacher, shared)
    if different:
        i, (ours, theirs) = next(iter(different.items()))
        raise UserError(
            f"student and teacher have different tokenizers: {len(different)} of {shared} ids "
            f"differ, first id {i}: {ours!r} and {theirs!r}; token-level "
            "distillation needs a teacher with the student's tokenizer",
            where=where,
            kind=ErrorKind.TOKENIZER_MISMATCH,
        )
    return shared


def differing_ids(
    student: Any, teacher: Any, shared: int
) -> dict[int, tuple[str | None, str | None]]:
    """The ids below `shared` whose text differs between two tokenizers, lowest first, with both."""
    ours, theirs = (
        {i: t for t, i in tokenizer.get_vocab().items() if i < shared}
        for tokenizer in (student, teacher)
    )
    return {
        i: (ours.get(i), theirs.get(i))
        for i in sorted(ours.keys() | theirs.keys())
        if ours.get(i) != theirs.get(i)
    }


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens: those with a role (EOS, …), and all that are marked as special, which
    real vocabularies have dozens of."""
    marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def fingerprint(tokenizer: Any) -> str:
    """Names a vocabulary: SHA-256 over its ids and strings, 16 hex digits."""
    pairs = sorted((i, t) for t, i in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=True).encode()).hexdigest()[:16]
