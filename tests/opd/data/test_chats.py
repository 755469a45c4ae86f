"""Chats: what is replaced and what stays."""

from opd.data.chats import last_question, with_last_question, with_system

SYSTEM = {"role": "system", "content": "be brief"}
FIRST = {"role": "user", "content": "one"}
REPLY = {"role": "assistant", "content": "two"}
LAST = {"role": "user", "content": "three", "name": "Ann"}


def test_the_last_question_is_replaced_and_all_else_stays() -> None:
    chat = [SYSTEM, FIRST, REPLY, LAST]
    assert last_question(chat) == "three"
    assert with_last_question(chat, "four") == [SYSTEM, FIRST, REPLY, {**LAST, "content": "four"}]
    assert with_last_question([FIRST, REPLY], "four") == [{**FIRST, "content": "four"}, REPLY]


def test_a_chat_without_a_question_has_none() -> None:
    assert last_question([SYSTEM, REPLY]) is None
    assert with_last_question([SYSTEM, REPLY], "four") is None


def test_a_system_message_comes_first_or_replaces_the_first_one() -> None:
    assert with_system([FIRST], "be brief", replacing=False) == [SYSTEM, FIRST]
    other = {"role": "system", "content": "be exact"}
    assert with_system([other, FIRST], "be brief", replacing=False) == [other, FIRST]
    assert with_system([other, FIRST], "be brief", replacing=True) == [SYSTEM, FIRST]
