"""One token of a rollout with the text around it."""

from collections.abc import Iterable, Mapping
from typing import Any

from storage import packing
from storage.vocabulary import Texts, text_of

AROUND = 6  # tokens on each side


class TokenContext:
    """A token with the ids around it.

    `row` has rollout_id, position, the rollout's own `texts`, and of its token record version,
    layout and completion_ids. Of a damaged record only `token_id` is known, where it is given.
    """

    def __init__(self, row: Mapping[str, Any], token_id: int | None = None) -> None:
        self._texts = (row["texts"] or {}).get("completion")
        self._at = self._start = int(row["position"])
        self.ids: list[int] = [] if token_id is None else [token_id]
        try:
            record = packing.unpack(row["rollout_id"], row, ("completion_ids",))
        except packing.DamagedRecord:
            return
        if self._at < len(record["completion_ids"]):
            self._start = max(0, self._at - AROUND)
            self.ids = [
                int(i) for i in record["completion_ids"][self._start : self._at + AROUND + 1]
            ]

    def read(self, texts: Texts) -> dict[str, str | None]:
        """{"text", "before", "after"}; all None where the token is not known."""
        if not self.ids:
            return dict.fromkeys(("text", "before", "after"))
        before = self._at - self._start
        return {
            "text": self._joined(texts, before, before + 1),
            "before": self._joined(texts, 0, before),
            "after": self._joined(texts, before + 1, len(self.ids)),
        }

    def _joined(self, texts: Texts, start: int, end: int) -> str:
        if self._texts is not None:
            return "".join(self._texts[self._start + start : self._start + end])
        if end - start == 1:
            return text_of(self.ids[start], texts)
        return _readable(self.ids[start:end], texts)


def _readable(ids: Iterable[int], texts: Texts) -> str:
    """The text of a row of ids; an unknown one as ⟨id⟩."""
    return b"".join(texts[i][0] if i in texts else f"⟨{i}⟩".encode() for i in ids).decode(
        "utf-8", "replace"
    )
