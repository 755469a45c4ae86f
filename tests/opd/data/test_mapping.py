"""Rows of every form as drafts: prompt, completion, answer, tools; refusals name row and column."""

import json

import pytest

from opd.config.data import DataConfig
from opd.data.mapping import Mapper
from opd.data.rows import Row, Table
from opd.errors import UserError

USER, REPLY = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def mapper(fields, columns=None, **settings):
    row = Row(fields, "a.jsonl:1")
    data = DataConfig.model_validate(settings | {"columns": columns or {}})
    return Mapper(
        data, Table("a.jsonl", None, 1, lambda indices: [row for _ in indices]), "prompts"
    )


def draft(fields, columns=None, **settings):
    return mapper(fields, columns, **settings)([0])[0]


def refusal(fields, columns=None, **settings):
    with pytest.raises(UserError, match=r"a\.jsonl:1") as caught:
        draft(fields, columns, **settings)
    return caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [USER, REPLY]},
        {"prompt": [USER], "completion": [REPLY]},
        {"prompt": [USER], "completion": json.dumps([REPLY])},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
    ],
)
def test_one_prompt_and_reply_from_every_form(fields):
    mapped = draft(fields)
    assert (mapped.messages, mapped.reply, mapped.text) == ((USER,), REPLY, None)
    assert mapped.row["prompt"] == "a"


def test_alpaca_has_its_output_as_completion():
    mapped = draft({"instruction": "a", "input": "i", "output": "b"})
    assert (mapped.text, mapped.completion, mapped.form) == ("a\n\ni", "b", "Alpaca")
    chat = draft({"instruction": "a", "output": "b"}, chat=True)
    assert chat.messages == (USER,)


def test_completions_that_cannot_be_used():
    both = {"messages": [USER, REPLY], "completion": "c"}
    assert "give different completions" in refusal(both)
    other = {"messages": [USER, REPLY], "written": "c"}
    assert draft(other, {"completion": "written"}).completion == "c"
    assert draft(both | {"completion": "b"}).completion == "b"
    turns = {"prompt": [USER], "completion": [REPLY, USER, REPLY]}
    assert "one assistant message (got assistant, user, assistant)" in refusal(turns)
    assert "must be text or one message (got 7)" in refusal({"prompt": "a", "completion": 7})


def test_what_a_row_gives_to_its_template():
    row = {"messages": [USER], "tools": json.dumps(TOOLS), "system": "s"}
    mapped = draft(row | {"chat_template_kwargs": {"thinking": True}})
    assert mapped.messages == ({"role": "system", "content": "s"}, USER)
    assert (mapped.options.tools, mapped.options.variables) == (tuple(TOOLS), {"thinking": True})
    named = draft({"messages": [USER], "template_args": '{"reasoning_effort": "low"}'})
    assert named.options.variables == {"reasoning_effort": "low"}
    renamed = draft(
        {"messages": [USER], "kw": {"x": 1}, "fs": TOOLS}, {"template_args": "kw", "tools": "fs"}
    )
    assert (renamed.options.tools, renamed.options.variables) == (tuple(TOOLS), {"x": 1})
    reserved = {"messages": [USER], "template_args": {"tokenize": True}}
    assert "tokenize is set by the program" in refusal(reserved)
    assert "system must be text (got 5)" in refusal({"messages": [USER], "system": 5})


def test_columns_of_verl():
    row = {
        "data_source": "gsm8k",
        "prompt": [USER],
        "reward_model": {"style": "rule", "ground_truth": "72"},
        "extra_info": {"answer": "so 72", "index": 0},
    }
    mapped = draft(row, {"answer": "reward_model.ground_truth"}, grader="numeric")
    assert (mapped.messages, mapped.answer) == ((USER,), "72")
    assert draft(row, {"answer": "extra_info.answer"}).answer == "so 72"
    assert mapper(row, {"answer": "reward_model.ground_truth"}).unread(Row(row, "a")) == [
        "data_source",
        "extra_info",
    ]


def test_several_right_answers():
    assert draft({"prompt": "a", "answer": ["x", "y"]}).answer == '["x", "y"]'
    some = draft({"prompt": "a", "answer": ["four", "4"]}, grader="numeric")
    assert some.answer == "4"
    assert "must contain a number" in refusal(
        {"prompt": "a", "answer": ["x", "y"]}, grader="numeric"
    )
    cut = draft({"prompt": "a", "answer": ["= 1", "= 2"]}, answer_in_data="= (.)")
    assert cut.answer == '["1", "2"]'


def test_what_is_missing_names_the_choice():
    text = refusal({"question": "a", "answer": "1"})
    assert (
        "prompt is missing (the row has question, answer); prompts.columns.prompt names it" in text
    )
    assert "columns.messages: chosen" in refusal({"chosen": [USER, REPLY], "rejected": [USER]})
    assert draft({"chosen": [USER, REPLY]}, {"messages": "chosen"}).reply == REPLY


def test_a_configuration_with_every_default_written_out_is_the_same():
    written = DataConfig().columns.model_dump()
    assert draft({"instruction": "a", "output": "b"}, written).form == "Alpaca"
    table = Table("t", ("prompt",), 1, lambda indices: [Row({"prompt": "a"}, "t") for _ in indices])
    data = DataConfig.model_validate({"columns": written})
    assert Mapper(data, table, "prompts")([0])[0].text == "a"


@pytest.mark.parametrize(
    ("fields", "columns", "text"),
    [
        ({"instruction": "a", "output": "b"}, {}, "Q: a"),
        ({"conversations": [{"from": "human", "value": "a"}]}, {}, "Q: a"),
        ({"extra": {"question": "a"}, "answer": "b"}, {"prompt": "extra.question"}, "Q: a"),
    ],
)
def test_a_template_over_a_prompt_that_is_no_column_of_its_name(fields, columns, text):
    """In a table with columns, such as Parquet, as in JSON lines."""
    for names in (None, tuple(fields)):
        table = Table("t", names, 1, lambda indices: [Row(fields, "t") for _ in indices])
        data = DataConfig.model_validate({"columns": columns, "prompt_template": "Q: {prompt}"})
        (mapped,) = Mapper(data, table, "prompts")([0])
        assert (mapped.messages[0]["content"] if mapped.messages else mapped.text) == text
    missing = DataConfig(prompt_template="{level} {prompt}")
    with pytest.raises(UserError, match="'level'"):
        Mapper(missing, Table("t", tuple(fields), 1, lambda _: []), "prompts").check_columns()


def test_columns_that_nothing_reads():
    row = {"prompt": "a", "answer": "1", "tools": TOOLS, "level": 3, "empty": None}
    assert mapper(row).unread(Row(row, "a")) == ["tools", "level"]
    assert mapper(row, chat=True).unread(Row(row, "a")) == ["level"]
    assert mapper(row, prompt_template="{level} {prompt}").unread(Row(row, "a")) == ["tools"]
