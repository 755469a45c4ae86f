"""Names and tags that people give: text without characters that control a terminal or a page."""

import unicodedata

from opd.errors import UserError

LINE_ENDS = ("Zl", "Zp")  # U+2028 and U+2029


def check_name(text: str, *, where: str) -> None:
    """Raises UserError for control characters, line breaks and tabs included."""
    for position, character in enumerate(text, start=1):
        if unicodedata.category(character) in ("Cc", *LINE_ENDS):
            raise UserError(
                f"must not hold control characters (U+{ord(character):04X} is character "
                f"{position}): remove it",
                where=where,
            )
