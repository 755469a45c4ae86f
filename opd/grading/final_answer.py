"""What of a completion is graded: the answer after the reasoning, and the numbers in it.

Reasoning ends at the last `</think>` (or another such tag). Where harmony's channels are marked,
the final channel's last message is the answer, and without one there is none.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

THINK_ENDS = ("</think>", "</thinking>", "</seed:think>", "◁/think▷", "[/THINK]")
CHANNEL, MESSAGE = "<|channel|>", "<|message|>"
HARMONY_END = r"(?=<\|(?:end|return|call|start|channel)\|>|\Z)"
HARMONY_FINAL = re.compile(
    r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)" + HARMONY_END, re.S
)
HARMONY_CALL = re.compile(
    r"to=(?:functions\.)?([\w.-]+)(?:\s|<\|channel\|>|<\|constrain\|>|\w)*<\|message\|>(.*?)"
    + HARMONY_END,
    re.S,
)
CALL_TAGS = ("<tool_call>", "</tool_call>")
MARKERS = (*THINK_ENDS, CHANNEL, MESSAGE, *CALL_TAGS)

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
VULGAR = re.compile("[¼-¾⅐-⅞]")
SEPARATOR = re.compile(r"(?<=[0-9])(?:\{,\}|\\[,!;: ]|,\\!)(?=[0-9]{3}(?![0-9]))")
LATEX_FRACTION = re.compile(
    r"\\[dtc]?frac\s*(?:\{\s*([-−]?\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))"
)
MIXED = re.compile(r"(?<![\d.,/])(\d{1,15})\s+(\d{1,9})\s?/\s?(\d{1,9})(?![\d/]|[.,]\d)")


def final(completion: str) -> str:
    """The part of a completion that answers: after the reasoning, in harmony the final channel."""
    if CHANNEL in completion:
        messages = HARMONY_FINAL.findall(completion)
        return str(messages[-1]).strip() if messages else ""
    return completion[_after_reasoning(completion) :].strip()


def _after_reasoning(text: str) -> int:
    return max(text.rfind(tag) + len(tag) if tag in text else 0 for tag in THINK_ENDS)


def harmony_calls(completion: str) -> list[tuple[str, str]]:
    """(name, arguments as JSON text) of the calls in harmony's channels."""
    return HARMONY_CALL.findall(completion)


def gradable_texts(tokenizer: Any, ids: Sequence[Any], texts: list[str]) -> list[str]:
    """The texts with the marks of reasoning and channels, where these are special tokens.

    `texts` are decoded without special tokens, which leaves such marks out, and with them the
    border between reasoning and answer.
    """
    special = {t.content for t in tokenizer.added_tokens_decoder.values() if t.special}
    if special.isdisjoint(MARKERS):
        return texts
    whole: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=False)
    if CHANNEL in special:  # its other marks show where a message ends
        return whole
    others = sorted(special - set(MARKERS), key=len, reverse=True)
    if not others:
        return whole
    pattern = re.compile("|".join(map(re.escape, others)))
    return [pattern.sub("", text) for text in whole]


def graded_text(text: str, tokens: Sequence[tuple[bytes, bool]]) -> str:
    """As `gradable_texts`, from the stored (bytes, special) of a completion's tokens."""
    special = {data.decode("utf-8", "replace") for data, is_special in tokens if is_special}
    if special.isdisjoint(MARKERS):
        return text
    kept = [
        data
        for data, is_special in tokens
        if CHANNEL in special or not is_special or data.decode("utf-8", "replace") in MARKERS
    ]
    return b"".join(kept).decode("utf-8", "replace")


def last_boxed(text: str) -> str | None:
    r"""What the last \boxed{} holds, braces and all; "" for an unclosed one, None without one."""
    boxes = list(BOX.finditer(text))
    if not boxes:
        return None
    start, depth, escaped = boxes[-1].end(), 1, False
    for position in range(start, len(text)):
        character = text[position]
        if escaped or character == "\\":
            escaped = not escaped
            continue
        depth += (character == "{") - (character == "}")
        if not depth:
            return text[start:position]
    return ""


def plain_numbers(text: str) -> str:
    r"""Thousands in LaTeX without their marks, and mixed numbers (1 1/2, 1½) as fractions."""
    text = VULGAR.sub(_vulgar, text.replace("⁄", "/"))
    return MIXED.sub(_improper, SEPARATOR.sub("", text))


def plain_fractions(text: str) -> str:
    r"""LaTeX's fractions of whole numbers written with a slash, after a number as a mixed one."""
    return plain_numbers(LATEX_FRACTION.sub(_latex, text))


def _latex(match: re.Match[str]) -> str:
    above, below = (group for group in match.groups() if group is not None)
    return _slashed(match, above, below)


def _vulgar(match: re.Match[str]) -> str:
    return _slashed(match, *unicodedata.normalize("NFKD", match[0]).split("\u2044"))


def _slashed(match: re.Match[str], above: str, below: str) -> str:
    """The fraction, apart from a number before it, but not from its sign."""
    signed = match.string.endswith(("-", "−", "+"), 0, match.start())
    return f"{above}/{below}" if signed else f" {above}/{below}"


def _improper(match: re.Match[str]) -> str:
    whole, above, below = (int(group) for group in match.groups())
    if not 0 < above < below:
        return match[0]
    return f"{whole * below + above}/{below}"
