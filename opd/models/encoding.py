"""Text to ids: special tokens once, and a completion as the text that continues its prompt.

Tokenizers add special tokens around a text and a blank before it. A prompt keeps what stands before
it, once; nothing stands behind it, since the model goes on there. A completion gets neither.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

# Texts that stand in for a prompt where the real one's last token would merge with the completion
ANCHORS = ("\n", " ", ".", ":", "=", "a", "1")


def text_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text by itself, without special tokens around it."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def prompt_ids(tokenizer: Any, texts: Sequence[str], *, chat: bool) -> list[tuple[int, ...]]:
    """The ids of prompts, each with what the tokenizer puts before a text, once.

    The text may begin with it. What the tokenizer puts behind a text is left out. A `chat` is as
    its template rendered it, and gets nothing.
    """
    if not texts:
        return []
    before, _ = special_around(tokenizer)
    bos = before[0] if before else tokenizer.bos_token_id
    bare = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [tuple(_begun(list(ids), [] if chat else before, bos)) for ids in bare]


def special_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind every text."""
    for text in ANCHORS[::-1]:
        bare, whole = text_ids(tokenizer, text), list(tokenizer(text)["input_ids"])
        for start in range(len(whole) - len(bare) + 1 if bare else 0):
            end = start + len(bare)
            if whole[start:end] == bare:
                return whole[:start], whole[end:]
    return [], []


@dataclass(frozen=True)
class Continuation:
    """A completion's ids; `merges` where the tokenizer would join it with the end of its prompt."""

    ids: list[int]
    merges: bool = False


def continuation(tokenizer: Any, prompt: str, text: str) -> Continuation:
    """The ids of a text that continues a prompt.

    Both are encoded together and cut at the prompt's end, so that a tokenizer which puts a blank
    before every text puts none here. Where a token would lie across that end, the text begins a new
    one, as it does for a model that goes on from the prompt's ids.
    """
    for number, context in enumerate((prompt, *ANCHORS)):
        before, both = text_ids(tokenizer, context), text_ids(tokenizer, context + text)
        if before and both[: len(before)] == before:
            return Continuation(both[len(before) :], merges=number > 0)
    return Continuation(text_ids(tokenizer, text), merges=True)


def split_end(
    tokenizer: Any, ids: Sequence[int], ends: Collection[int]
) -> tuple[list[int], int | None]:
    """A completion's ids before the stop id that already ends it, and that id; None without one.

    Blanks and further stop ids may stand behind it: templates write a line end there.
    """
    body, end = list(ids), None
    while (last := _last_end(tokenizer, body, ends)) is not None:
        body, end = body[:last], body[last]
    return body, end


def _last_end(tokenizer: Any, ids: list[int], ends: Collection[int]) -> int | None:
    """The position of the last stop id if only blanks follow it."""
    last = next((n for n in reversed(range(len(ids))) if ids[n] in ends), None)
    if last is None or tokenizer.decode(ids[last + 1 :]).strip():
        return None
    return last


def _begun(ids: list[int], before: list[int], bos: int | None) -> list[int]:
    """The ids with `before` in front of them, and with one BOS where there would be several."""
    begun = ids if ids[: len(before)] == before else [*before, *ids]
    while bos is not None and begun[:2] == [bos, bos]:
        begun = begun[1:]
    return begun
