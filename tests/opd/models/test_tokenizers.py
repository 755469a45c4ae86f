"""What two tokenizers share, and which ids end an answer."""

import pytest

from opd.errors import UserError
from opd.models.tokenizers import as_ids, fingerprint, shared_vocabulary, stop_ids
from tests.support import tiny_models


def test_different_tokenizers_are_refused_by_id_and_string():
    ours = tiny_models.tokenizer()
    theirs = tiny_models.tokenizer()
    theirs.backend_tokenizer.add_tokens(["zebra"])
    assert shared_vocabulary(ours, ours, 310, 320) == 310
    with pytest.raises(UserError, match="zebra") as caught:
        shared_vocabulary(ours, theirs, 310, 320)
    assert caught.value.kind == "tokenizer mismatch"
    assert caught.value.where == "teacher.model"
    assert fingerprint(ours) != fingerprint(theirs)


def test_the_tokenizers_eos_ends_an_answer_beside_what_the_model_declares():
    tokenizer = tiny_models.tokenizer()
    eos = tokenizer.eos_token_id
    assert stop_ids(as_ids([7, eos]), tokenizer) == (7, eos)
    assert stop_ids(as_ids(7), tokenizer) == (7, eos)
    tokenizer.eos_token = None
    assert stop_ids(as_ids(None), tokenizer) == ()
