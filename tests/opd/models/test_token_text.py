"""Every id's bytes join to the text, whatever the tokenizer's way of writing them."""

from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from opd.models.folders.resolve import resolve
from opd.models.token_text import TokenText
from opd.models.tokenizers import load_tokenizer, special_ids
from tests.support import tiny_models

HARD = "naïve 語 🙂 <b>${x}</b>\n\ttab\u202e \u200b"


def test_byte_level_bytes_join_to_the_text():
    tokenizer = tiny_models.tokenizer()
    ids = tokenizer(HARD)["input_ids"]
    table = TokenText(tokenizer)(set(ids))
    assert b"".join(table[i][0] for i in ids).decode() == HARD
    assert any(not _is_text(table[i][0]) for i in ids)  # the emoji is split over tokens
    assert not any(special for _, special in table.values())


def test_special_tokens_are_marked():
    table = TokenText(tiny_models.tokenizer())([tiny_models.EOS, tiny_models.PAD])
    assert table == {tiny_models.EOS: (b"<eos>", True), tiny_models.PAD: (b"<pad>", True)}


def test_special_tokens_without_a_role_are_marked_too():
    """Real vocabularies have `<|file_sep|>` and others beside BOS, EOS and padding."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_tokens([AddedToken("<|file_sep|>", special=True), AddedToken("<think>")])
    ids = tokenizer.convert_tokens_to_ids(["<|file_sep|>", "<think>", "<eos>"])
    assert ids[0] not in tokenizer.all_special_ids
    assert [special for _, special in TokenText(tokenizer)(ids).values()] == [True, True, False]
    assert special_ids(tokenizer) >= {ids[0], ids[2]}


def test_metaspace_and_byte_fallback():
    vocab = {"<unk>": 0, "▁the": 1, "<0xE8>": 2, "re": 3}
    backend = Tokenizer(models.BPE(vocab, [], byte_fallback=True, unk_token="<unk>"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    table = TokenText(PreTrainedTokenizerFast(tokenizer_object=backend))([1, 2, 3])
    assert [table[i][0] for i in (1, 2, 3)] == [b" the", b"\xe8", b"re"]


def test_padded_ids_have_no_text():
    assert TokenText(tiny_models.tokenizer())([5000]) == {5000: (b"", False)}


def test_bundled_tokens_join_to_the_text():
    tokenizer = load_tokenizer(resolve("bundled/student", where="test"), where="test")
    text = "Ann has 7 apples. Ann buys 5 more. How many apples does Ann have now?"
    ids = tokenizer(text)["input_ids"]
    table = TokenText(tokenizer)(set(ids))
    assert b"".join(table[i][0] for i in ids).decode() == text


def _is_text(raw):
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
