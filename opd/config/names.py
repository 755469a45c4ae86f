"""Names, tags and notes that people give: text without characters that control a terminal or a
page."""

import unicodedata

from opd.errors import UserError

MAX_NOTE = 2000  # characters of a note on a rollout or a token
LINE_ENDS = ("Zl", "Zp")  # U+2028 and U+2029


def check_name(text: str, *, where: str) -> None:
    """Raises UserError for control characters, line breaks and tabs included."""
    _check_characters(text, "", where)


def checked_note(text: str, *, where: str) -> str:
    """A note of several lines, without the blanks around it. Raises UserError."""
    note = text.replace("\r\n", "\n").strip()
    if len(note) > MAX_NOTE:
        raise UserError(f"must have at most {MAX_NOTE} characters (got {len(note)})", where=where)
    _check_characters(note, "\n", where)
    return note


def _check_characters(text: str, allowed: str, where: str) -> None:
    for position, character in enumerate(text, start=1):
        if character in allowed:
            continue
        if unicodedata.category(character) in ("Cc", *LINE_ENDS):
            raise UserError(
                f"must not hold control characters (U+{ord(character):04X} is character "
                f"{position}): remove it",
                where=where,
            )
