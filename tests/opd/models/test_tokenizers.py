"""What two tokenizers share."""

from typing import Any

import pytest

from opd.errors import UserError
from opd.models.tokenizers import compare_vocabularies, fingerprint, shared_vocabulary
from tests.support import tiny_models


def with_tokens(*texts: str) -> Any:
    tokenizer = tiny_models.tokenizer()
    tokenizer.backend_tokenizer.add_tokens(list(texts))
    return tokenizer


def test_ids_with_other_texts_are_refused() -> None:
    zebra, horse = with_tokens("zebra"), with_tokens("horse")
    with pytest.raises(UserError, match="'zebra' and 'horse'") as caught:
        shared_vocabulary(zebra, horse, 310, 320)
    assert caught.value.kind == "tokenizer mismatch"
    assert caught.value.where == "teacher.model"
    assert fingerprint(zebra) != fingerprint(horse)


def test_a_text_with_another_id_is_refused() -> None:
    """On each side, the id stands for nothing to the other one."""
    first, second = with_tokens("zebra"), tiny_models.tokenizer()
    vocabulary = second.get_vocab() | {"zebra": len(second) + 1}
    second.get_vocab = lambda: vocabulary
    with pytest.raises(UserError, match="'zebra' and None"):
        shared_vocabulary(first, second, 310, 310)
    with pytest.raises(UserError, match="None and 'zebra'"):
        shared_vocabulary(second, first, 310, 310)


def test_ids_that_one_side_knows_are_no_mismatch() -> None:
    """As the added tokens of a family's later version, and as rows of padding."""
    plain, more = tiny_models.tokenizer(), with_tokens("<think>", "</think>")
    count = len(plain)
    for student, teacher in ((plain, more), (more, plain)):
        assert shared_vocabulary(student, teacher, 310, 320).shared == 310
        assert shared_vocabulary(student, teacher, count, 320).shared == count
    compared = compare_vocabularies(more, plain, 310)
    assert compared.student_only == {count: "<think>", count + 1: "</think>"}
    assert compared.renamed == compared.teacher_only == {}
    assert compare_vocabularies(plain, more, count + 1).teacher_only == {count: "<think>"}
    assert not compare_vocabularies(plain, plain, 310).one_sided
