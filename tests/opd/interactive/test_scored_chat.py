"""A chat with models whose numbers are none."""

import pytest

from opd.config.run import parse
from opd.errors import UserError
from opd.interactive.scored_chat import ReplySettings, ReplyWriter
from opd.training.loading import Callbacks, load_models

pytestmark = pytest.mark.device


@pytest.mark.parametrize("author", ["student", "teacher"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_is_no_reply(author, temperature):
    models = load_models(parse({}), None, Callbacks())
    for weights in getattr(models.pair, author).parameters():
        weights.data.fill_(float("nan"))
    settings = ReplySettings(temperature=temperature, max_new_tokens=4, seed=0)
    writer = ReplyWriter(models, author, (5, 6, 7), settings)
    with pytest.raises(UserError, match="are NaN while it writes") as caught:
        writer.turn()
    assert (caught.value.where, caught.value.kind) == (author, "nan loss")
    writer.close()
    models.close()
