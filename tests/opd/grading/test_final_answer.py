"""What is graded: after the reasoning, in the final channel, in the last box, mixed numbers too."""

import pytest
from tokenizers import AddedToken

from opd.config.data import DataConfig
from opd.grading.final_answer import final, gradable_texts, last_boxed, plain_fractions
from opd.grading.graders import grade, right_answers
from tests.support import tiny_models

ANALYSIS = "<|channel|>analysis<|message|>maybe 7<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"


def right(grader, completion, answer, **fields):
    data = DataConfig.model_validate({"grader": grader, **fields})
    return grade(data, completion, answer) == 1.0


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (" 4 ", "4"),
        ("<think>5</think> 4\n", "4"),
        ("[THINK]5[/THINK]4", "4"),
        (f"{ANALYSIS}{FINAL}4<|return|>", "4"),
        (f"{ANALYSIS}{FINAL}4", "4"),
        (f"{FINAL}3<|end|><|start|>assistant{FINAL}4<|end|>", "4"),
        (f"{ANALYSIS}<|channel|>final <|constrain|>json<|message|>4<|return|>", "4"),
        (ANALYSIS, ""),
        ("<|channel|>analysis<|message|>4", ""),
    ],
)
def test_the_part_that_answers(completion, answer):
    assert final(completion) == answer


@pytest.mark.parametrize(
    ("grader", "text", "answer", "fields"),
    [
        ("exact", "4", "4", {}),
        ("numeric", "it is 4", "4", {}),
        ("math", r"\boxed{4}", "4", {}),
        ("regex", "Answer: B", "B", {"answer_pattern": "Answer: (.)"}),
        ("json", '{"n": 4}', '{"n": 4}', {}),
    ],
)
def test_every_grader_reads_the_final_channel(grader, text, answer, fields):
    assert right(grader, f"{ANALYSIS}{FINAL}{text}<|return|>", answer, **fields)
    assert not right(grader, ANALYSIS.replace("maybe 7", text), answer, **fields)


def test_tool_calls_in_channels():
    call = (
        f"{ANALYSIS}<|channel|>commentary to=functions.add <|constrain|>json<|message|>"
        '{"a": 2}<|call|>'
    )
    assert right("tool_call", call, '{"name": "add", "arguments": {"a": 2}}')
    assert not right("tool_call", call, '{"name": "add", "arguments": {"a": 3}}')
    header = '<|start|>assistant to=functions.add<|channel|>commentary json<|message|>{"a": 2}'
    assert right("tool_call", header, '{"name": "add", "arguments": {"a": 2}}')


def test_marks_that_are_special_tokens_still_end_the_reasoning():
    tokenizer = tiny_models.tokenizer()
    marks = ["</think>", "<|channel|>", "<|message|>"]

    def graded_text(added, text):
        tokenizer = tiny_models.tokenizer()
        tokenizer.add_tokens([AddedToken(m, special=True) for m in added])
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"]]
        plain = tokenizer.batch_decode(ids, skip_special_tokens=True)
        return gradable_texts(tokenizer, ids, plain)[0]

    assert final(graded_text(marks[:1], "so 5</think>4")) == "4"
    assert final(graded_text(marks[1:], "<|channel|>final<|message|>4")) == "4"
    assert gradable_texts(tokenizer, [[1]], ["as it is"]) == ["as it is"]


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{1}, no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}} ends", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\fbox{3}", "3"),
        (r"\boxed{1} and \boxed{2", ""),
        (r"\boxed{}", ""),
        ("4", None),
    ],
)
def test_the_last_box(text, box):
    assert last_boxed(text) == box


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("3 1/2", "3.5", True),
        ("-3 1/2 cups", "-3.5", True),
        ("1½", "1.5", True),
        ("½", "0.5", True),
        (r"1\frac{1}{2}", "1.5", True),
        (r"\boxed{\dfrac{3}{4}} (step 7)", "0.75", True),
        (r"\boxed{-\frac{1}{2}}", "-0.5", True),
        (r"\boxed{\frac{1}{2}}", r"-\frac{1}{2}", False),
        (r"x = \frac{-3}{4}", "-0.75", True),
        (r"3-\frac12", "0.5", True),
        (r"-1\frac{1}{2}", "-1.5", True),
        ("-½", "-0.5", True),
        ("−½", "-1/2", True),
        ("½", "-½", False),
        (r"\boxed{42}. Check: 6 * 7", "42", True),
        (r"1{,}234", "1234", True),
        ("3.5", "3 1/2", True),
        ("2 4/2", "2", True),
        ("1 1/2/3", "1.5", False),
        ("12 1/2", "1.5", False),
    ],
)
def test_numbers_as_people_write_them(completion, answer, expected):
    assert right("numeric", completion, answer) is expected


def test_fractions_in_latex():
    assert plain_fractions(r"\frac34 and \tfrac{1}{12}").split() == ["3/4", "and", "1/12"]


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        (r"\boxed{1}, no, \boxed{2}", "2", True),
        (r"\boxed{1}, no, \boxed{2}", "1", False),
        ("so 3 1/2.", "3.5", True),
        (r"\boxed{1.5}", "1 1/2", True),
        (r"\boxed{1\,234}", "1234", True),
        (r"\boxed{5}, that is \boxed{", "5", False),
    ],
)
def test_mathematics_takes_the_last_box_and_mixed_numbers(completion, answer, expected):
    assert right("math", completion, answer) is expected


@pytest.mark.parametrize(
    ("grader", "answer", "good", "bad", "fields"),
    [
        ("exact", '["Paris", "City of Light"]', "City of Light", "Lyon", {}),
        ("numeric", '["4", "5"]', "it is 5", "6", {}),
        ("math", '["1", "2"]', r"\boxed{2}", r"\boxed{3}", {}),
        ("regex", '["B", "b"]', "A: b", "A: c", {"answer_pattern": "A: (.)"}),
    ],
)
def test_one_of_several_right_answers_is_enough(grader, answer, good, bad, fields):
    assert right(grader, good, answer, **fields)
    assert not right(grader, bad, answer, **fields)


def test_what_is_one_answer():
    assert right_answers("json", '["a", "b"]') == ('["a", "b"]',)
    assert right_answers("math", "[0, 1]") == ("[0, 1]",)
    assert right_answers("exact", '["a", 1]') == ('["a", 1]',)
    assert right_answers("exact", '["a"') == ('["a"',)
