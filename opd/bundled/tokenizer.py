"""The bundled models' word-level tokenizer: each token's text carries its own leading space.

The texts of the tokens, put one after the other, are the text again, so a completion can be read
token by token and a prompt and its completion can be encoded apart.
"""

import re
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opd.bundled.problems import ITEMS, NAMES, QUESTIONS, STARTS, WORDINGS

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
CONTEXT = 512
PIECE = r" ?</?think>| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]|\s"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same at each call; encoding adds no special tokens."""
    pieces = [PAD, EOS, UNK, *_pieces()]
    return word_level({piece: i for i, piece in enumerate(pieces)}, PIECE)


def word_level(vocabulary: dict[str, int], pattern: str, **options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of these pieces, each a match of `pattern`; `options` are transformers'."""
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=CONTEXT,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **options,
    )


def _pieces() -> list[str]:
    # "<think>" opens a completion and has no space before it; "</think>" follows a full stop.
    marks = ["<think>", " </think>", "</think>", "\n", " ", ".", "?", " +", " -", " x", " ="]
    digits = [str(digit) for digit in range(10)]
    spaced = [f" {digit}" for digit in digits]
    return [*marks, *digits, *spaced, *NAMES, *_words()]


def _words() -> list[str]:
    """Each word of the problems with its leading space, in alphabetical order."""
    templates = [*STARTS, *QUESTIONS, *(text for texts in WORDINGS.values() for text in texts)]
    words = set(re.findall(r"(?<!\{)\b[A-Za-z]+\b(?!\})", " ".join(templates)))
    return [f" {word}" for word in sorted(words | {*NAMES, *ITEMS})]
