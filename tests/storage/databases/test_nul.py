"""Text with NUL goes through a database that cannot hold it, and comes back as it was."""

import json

import orjson
from hypothesis import given
from hypothesis import strategies as st

from storage.databases.nul import MARK, escaped, escaped_json, restored, restored_json

PIECES = st.sampled_from(["\0", MARK, "0", "\\", "u0000", '"', "é", "a"])
NASTY = st.lists(PIECES, max_size=12).map("".join)


@given(NASTY | st.text())
def test_every_text_comes_back(text: str) -> None:
    assert "\0" not in escaped(text)
    assert restored(escaped(text)) == text


@given(
    st.recursive(
        NASTY | st.none() | st.floats(allow_nan=False, allow_infinity=False), st.lists, max_leaves=5
    )
)
def test_every_json_comes_back_to_the_byte(value: object) -> None:
    for spelled in (orjson.dumps(value).decode(), json.dumps(value)):
        held = escaped_json(spelled)
        assert restored_json(held) == spelled
        assert "\0" not in str(orjson.loads(held)), "not as an escape either"
        assert orjson.loads(restored_json(held)) == value


def test_other_text_is_left_as_it_is() -> None:
    text = "plain \\u0041 ␀"
    assert escaped(text) is text and restored(text) is text
    assert escaped_json('"\\\\u0000"') == '"\\\\u0000"', "a backslash and five characters"
