"""Which columns hold the prompt: configured, recognised, or a choice that is to be made."""

import pytest

from opd.config.data import DataConfig
from opd.data.columns import has_column, prompt_column, recognised_columns, value_of
from opd.errors import UserError

CHAT = [{"role": "user", "content": "a"}]
GPT = [{"from": "human", "value": "a"}]


def column(fields, **columns):
    return prompt_column(DataConfig.model_validate({"columns": columns}), fields, "a:1")


@pytest.mark.parametrize(
    ("fields", "form", "name"),
    [
        ({"prompt": "a"}, "text", "prompt"),
        ({"messages": CHAT, "prompt": "a"}, "messages", "messages"),
        ({"messages": None, "prompt": "a"}, "text", "prompt"),
        ({"prompt": CHAT}, "messages", "prompt"),
        ({"prompt": '[{"role": "user", "content": "a"}]'}, "messages as JSON text", "prompt"),
        ({"conversations": GPT}, "ShareGPT", "conversations"),
        ({"conversations": CHAT}, "messages", "conversations"),
        ({"instruction": "a", "output": "b"}, "Alpaca", "instruction"),
        ({"prompt": "a", "instruction": "c", "output": "b"}, "text", "prompt"),
    ],
)
def test_forms(fields, form, name):
    mapped = column(fields)
    assert (mapped.form, mapped.names[0]) == (form, name)


def test_columns_that_are_not_taken():
    assert column({"instruction": "a"}) is None
    assert column({"question": "a", "answer": "b"}) is None
    assert column({"conversations": GPT}, messages="chat") is None
    assert recognised_columns(DataConfig(), ["instruction", "input"]) == ["instruction"]
    with pytest.raises(UserError, match=r"both conversations and instruction could be the prompt"):
        column({"conversations": GPT, "instruction": "a", "output": "b"})


def test_alpaca_joins_instruction_and_input():
    assert column({"instruction": "Add.", "input": "1, 2", "output": "3"}).value == "Add.\n\n1, 2"
    assert column({"instruction": "Add.", "input": "", "output": "3"}).value == "Add."
    with pytest.raises(UserError, match="instruction and input must be text"):
        column({"instruction": "Add.", "input": 5, "output": "3"})


def test_dotted_names():
    fields = {"a": {"b": {"c": 1}}, "a.x": 2, "j": '{"k": 3}', "t": "plain"}
    assert value_of(fields, "a.b.c", "a:1") == 1
    assert value_of(fields, "a.x", "a:1") == 2
    assert value_of(fields, "j.k", "a:1") == 3
    assert value_of(fields, "a.n.c", "a:1") is None
    with pytest.raises(UserError, match="a:1: t must be a list or an object"):
        value_of(fields, "t.k", "a:1")
    assert has_column(fields, "a.b") and not has_column(fields, "b.c")
