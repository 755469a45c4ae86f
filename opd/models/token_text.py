"""The bytes behind every token id, so that a record stays readable without its tokenizer."""

import json
from collections.abc import Collection
from typing import Any

from opd.models.tokenizers import special_ids

METASPACE = "▁"


def _byte_letters() -> dict[str, int]:
    """The printable stand-ins of byte-level BPE, letter → byte. Source: GPT-2's encoder."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(b): b for b in plain}
    rest = [b for b in range(256) if b not in set(plain)]
    return letters | {chr(256 + n): b for n, b in enumerate(rest)}


BYTE_LETTERS = _byte_letters()


class TokenText:
    """Answers id → (bytes, special?) for one tokenizer.

    Byte-level vocabularies give their raw bytes, so that a character split over several tokens can
    be joined again; `<0xAB>` tokens give their byte; others the UTF-8 of their text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = special_ids(tokenizer)
        self._added = {i: str(t) for i, t in tokenizer.added_tokens_decoder.items()}
        decoder = _decoder(tokenizer)
        self._byte_level = "ByteLevel" in decoder
        self._metaspace = "Metaspace" in decoder or METASPACE in decoder
        self._byte_fallback = "ByteFallback" in decoder

    def __call__(self, ids: Collection[int]) -> dict[int, tuple[bytes, bool]]:
        ordered = sorted(ids)
        strings = self._tokenizer.convert_ids_to_tokens(ordered)
        return {
            i: (self._bytes(i, text), i in self._special)
            for i, text in zip(ordered, strings, strict=True)
        }

    def _bytes(self, token_id: int, text: str | None) -> bytes:
        if text is None:  # a padded id that no string belongs to
            return b""
        if token_id in self._added:
            return self._added[token_id].encode()
        if self._byte_level:
            return (
                bytes(BYTE_LETTERS[c] for c in text)
                if all(c in BYTE_LETTERS for c in text)
                else text.encode()
            )
        if self._byte_fallback and len(text) == 6 and text.startswith("<0x"):
            return bytes([int(text[3:5], 16)])
        return (text.replace(METASPACE, " ") if self._metaspace else text).encode()


def _decoder(tokenizer: Any) -> str:
    """The backend's decoder as JSON text, empty for a tokenizer without one."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return ""
    return json.dumps(json.loads(backend.to_str()).get("decoder"), ensure_ascii=False)
