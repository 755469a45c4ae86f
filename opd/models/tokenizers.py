"""Tokenizers: loading, which ids two of them share, and how they are named."""

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from opd.config.gguf.header import is_gguf
from opd.config.model_files.tokenizers import files_of, missing_file
from opd.errors import ErrorKind, UserError, one_line
from opd.models.folders.gguf import load_gguf_tokenizer

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


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Saves a tokenizer as it came: its own files, class and templates.

    transformers would write another class name, which its older versions do not know.
    """
    source = Path(tokenizer.name_or_path)
    if not source.is_dir() or missing_file(source) is not None:
        tokenizer.save_pretrained(folder)
        return
    for path in files_of(source):
        copy = folder / path.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)


@dataclass(frozen=True)
class VocabularyComparison:
    """Ids of two tokenizers below `shared` whose texts differ, lowest first.

    `renamed` ids stand for another text on each side, or for one that has another id there; the
    others stand for a text that only one side knows.
    """

    shared: int
    renamed: dict[int, tuple[str | None, str | None]]
    student_only: dict[int, str]
    teacher_only: dict[int, str]

    @property
    def one_sided(self) -> bool:
        return bool(self.student_only or self.teacher_only)


def shared_vocabulary(
    student: Any, teacher: Any, student_logits: int, teacher_logits: int, *, where: str = TEACHER
) -> VocabularyComparison:
    """The leading ids that both models can produce. Raises UserError when an id's text differs.

    Families pad their vocabularies differently (151,936 and 152,064): the longer one is cut, and
    the distributions renormalised over what is shared. An id that stands for a text on one side
    only stays: the other model has a row for it, which it never learnt.
    """
    shared = min(student_logits, teacher_logits)
    compared = compare_vocabularies(student, teacher, shared)
    different = compared.renamed
    if different:
        i, (ours, theirs) = next(iter(different.items()))
        raise UserError(
            f"student and teacher have different tokenizers: {len(different)} of {shared} ids "
            f"differ, first id {i}: {ours!r} and {theirs!r}; token-level "
            "distillation needs a teacher with the student's tokenizer",
            where=where,
            kind=ErrorKind.TOKENIZER_MISMATCH,
        )
    return compared


def compare_vocabularies(student: Any, teacher: Any, shared: int) -> VocabularyComparison:
    """Compares the ids below `shared`."""
    texts = [{i: t for t, i in side.get_vocab().items()} for side in (student, teacher)]
    ours, theirs = texts
    vocabularies = [set(side.values()) for side in texts]
    renamed: dict[int, tuple[str | None, str | None]] = {}
    only: tuple[dict[int, str], dict[int, str]] = {}, {}
    for i in sorted(i for i in ours.keys() | theirs.keys() if i < shared):
        a, b = ours.get(i), theirs.get(i)
        if a == b:
            continue
        if a is not None and b is None and a not in vocabularies[1]:
            only[0][i] = a
        elif b is not None and a is None and b not in vocabularies[0]:
            only[1][i] = b
        else:
            renamed[i] = a, b
    return VocabularyComparison(shared, renamed, *only)


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of special tokens: those with a role (EOS, …), and all that are marked as special, which
    real vocabularies have dozens of."""
    marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return marked | set(tokenizer.all_special_ids)


def unknown_id(tokenizer: Any) -> int | None:
    """The id that stands for text the vocabulary lacks; None without one of that role only."""
    others = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    unknown: int | None = tokenizer.unk_token_id
    return None if unknown in others else unknown


def fingerprint(tokenizer: Any) -> str:
    """Names a vocabulary: SHA-256 over its ids and strings, 16 hex digits."""
    pairs = sorted((i, t) for t, i in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pairs, ensure_ascii=True).encode()).hexdigest()[:16]
