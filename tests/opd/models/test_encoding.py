"""Prompts and completions become the ids that a model would have read and written."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from opd.bundled.tokenizer import build_tokenizer
from opd.models.encoding import continuation, prompt_ids, special_around, split_end, text_ids
from opd.models.stop_ids import led, reply_lead
from tests.support import tiny_models


def sentencepiece(scheme: str) -> Any:
    """A BPE over text whose blanks are "▁", with one before a text (`scheme`), as Llama 2's."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    texts = ["3+4=7 7 7 3 4 = +", "the teacher and the sum 7"] * 3
    trainer = trainers.BpeTrainer(
        vocab_size=70, special_tokens=["</s>", "<unk>", "<s>"], show_progress=False
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


def framed(single: str, **special: str) -> Any:
    """The tests' tokenizer with a post-processor of this form, such as "<s> $A"."""
    made = tiny_models.tokenizer()
    made.add_special_tokens({"bos_token": "<s>"})
    pairs = [(t, made.convert_tokens_to_ids(t)) for t in ("<s>", "<eos>")]
    made._tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=pairs
    )
    return made


@pytest.mark.parametrize("scheme", ["always", "first"])
@pytest.mark.parametrize(
    ("prompt", "text"),
    [("3+4=", "7"), ("the teacher", " and the sum"), ("the te", "acher 7"), ("the sum ", "7 and")],
)
def test_a_completion_continues_its_prompt_without_a_blank_of_its_own(
    scheme: str, prompt: str, text: str
) -> None:
    tokenizer = sentencepiece(scheme)
    (before,) = prompt_ids(tokenizer, [prompt], chat=False)
    ids = continuation(tokenizer, prompt, text).ids
    assert tokenizer.decode([*before, *ids]) == prompt + text
    if not text.startswith(" "):
        assert tokenizer.decode([*before, *text_ids(tokenizer, text)]) != prompt + text


def test_where_a_token_would_cross_the_prompts_end_a_new_one_begins() -> None:
    tokenizer = tiny_models.tokenizer()
    assert not continuation(tokenizer, "The", " teacher reads").merges
    crossed = continuation(tokenizer, "The te", "acher reads")
    assert crossed.merges
    joined = [*text_ids(tokenizer, "The te"), *crossed.ids]
    assert tokenizer.decode(joined) == "The teacher reads"
    assert joined != text_ids(tokenizer, "The teacher reads")


def test_bundled_texts_can_be_encoded_apart() -> None:
    tokenizer = build_tokenizer()
    prompt, text = "Ann has 3 apples. How many?", "<think> 3 + 4 = 7. </think> 7"
    assert continuation(tokenizer, prompt, text).ids == text_ids(tokenizer, text)


@pytest.mark.parametrize("text", ["1 + 2", "<s>1 + 2", "<s><s>1 + 2"])
def test_a_prompt_begins_with_one_bos(text: str) -> None:
    tokenizer = framed("<s> $A")
    bos, right = tokenizer.bos_token_id, text_ids(tokenizer, "1 + 2")
    assert prompt_ids(tokenizer, [text], chat=False) == [(bos, *right)]
    rendered = prompt_ids(tokenizer, [text], chat=True)
    assert rendered == [(bos, *right) if text.startswith("<s>") else tuple(right)]


def test_nothing_is_put_behind_a_prompt() -> None:
    tokenizer = framed("<s> $A <eos>")
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert special_around(tokenizer) == ([bos], [eos])
    (ids,) = prompt_ids(tokenizer, ["1 + 2"], chat=False)
    assert ids == (bos, *text_ids(tokenizer, "1 + 2"))
    assert special_around(framed("$A <eos>")) == ([], [eos])
    assert prompt_ids(tokenizer, [], chat=False) == []


@pytest.mark.parametrize(
    ("text", "body", "end"),
    [
        ("1 + 2", "1 + 2", None),
        ("1 + 2<eos>", "1 + 2", 0),
        ("1 + 2\n<eos>\n", "1 + 2\n", 0),
        ("1 + 2<pad>\n<eos>", "1 + 2", 1),
        ("<eos>1 + 2", "<eos>1 + 2", None),
        ("<eos>", "", 0),
    ],
)
def test_a_completion_ends_once(text: str, body: str, end: int | None) -> None:
    tokenizer = tiny_models.tokenizer()
    parts = split_end(tokenizer, text_ids(tokenizer, text), (0, 1))
    assert parts == (text_ids(tokenizer, body), end)


@pytest.mark.parametrize(
    ("reply", "lead"),
    [(" {{ m.content }}</s>", " "), ("{{ m.content }}</s>", ""), ("<x> {{ m.content }}", "<x> ")],
)
def test_what_the_template_writes_before_a_reply_is_found(reply: str, lead: str) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
        + reply
        + "{% endif %}{% endfor %}"
    )
    assert reply_lead(tokenizer) == lead
    tokenizer.chat_template = None
    assert reply_lead(tokenizer) == ""


@pytest.mark.parametrize(
    ("prompt", "reply", "whole"),
    [
        ("[A]", "7", "<think>\n\n</think>\n\n7"),
        ("[A]<think>\n\n</think>\n\n", "7", "7"),
        ("[A]", "<think>\nso\n</think>\n\n7", "<think>\nso\n</think>\n\n7"),
        ("[A]<think>\n", "so\n</think>\n\n7", "so\n</think>\n\n7"),
    ],
)
def test_what_the_template_writes_before_a_reply_is_written_once(
    prompt: str, reply: str, whole: str
) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    assert led(tokenizer, prompt, reply, "<think>\n\n</think>\n\n") == whole
    assert led(tokenizer, prompt, reply, " ") == " " + reply
