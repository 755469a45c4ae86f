"""Names: whatever a language needs, and nothing that controls a terminal."""

import pytest

from opd.config.names import check_name
from opd.errors import UserError


@pytest.mark.parametrize("name", ["run 1", "Größe 模型", "👩\u200d🔬", "שלום", "a\u00a0b", ""])
def test_text_of_every_language_is_a_name(name: str) -> None:
    check_name(name, where="name")


def test_the_character_and_its_place_are_named() -> None:
    with pytest.raises(UserError, match=r"^name: .*\(U\+001B is character 3\)"):
        check_name("ab\x1b[31m", where="name")
