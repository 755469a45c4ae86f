"""What two tokenizers share."""

import pytest

from opd.errors import UserError
from opd.models.tokenizers import fingerprint, shared_vocabulary
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
