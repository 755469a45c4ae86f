"""The handbook and everyday questions: every answer passes its grader, and no split leaks."""

import itertools
import random
import re

import pytest

from opd.bundled.facts import Row
from opd.bundled.handbook import FACTS, PLACES, everyday_rows, handbook_rows, open_rows
from opd.config.data import DataConfig, SuiteConfig
from opd.config.recipes import recipe
from opd.config.run import RunConfig, parse
from opd.experiments.definition import experiment
from opd.grading.graders import grade

MANY = 10_000


def rows_of(kind: str, split: str) -> list[Row]:
    make = {"handbook": handbook_rows, "everyday": everyday_rows, "open": open_rows}[kind]
    return make(split, MANY, random.Random(0))  # type: ignore[arg-type]


def question(row: Row) -> str:
    return str(row["messages"][0]["content"])


def config() -> RunConfig:
    return parse(recipe("smollm-handbook").config)


def test_the_teacher_reads_the_handbook_that_the_questions_are_about() -> None:
    system = " ".join((config().teacher.system or "").split())
    for fact in FACTS:
        assert fact.value in system
        assert fact.value in fact.sentence


def test_splits_share_the_facts_and_no_wording() -> None:
    questions = {split: [question(r) for r in rows_of("handbook", split)] for split in PLACES}
    every = list(itertools.chain.from_iterable(questions.values()))
    assert len(every) == len(set(every)) == len(FACTS) * 18
    for split in PLACES:
        assert {r["answer"] for r in rows_of("handbook", split)} == {f.value for f in FACTS}


def test_everyday_questions_stand_in_one_split_and_not_in_training() -> None:
    questions = {split: {question(r) for r in rows_of("everyday", split)} for split in PLACES}
    assert all(len(a) >= 40 for a in questions.values())
    assert not questions["eval"] & (questions["tune"] | questions["train"])
    trained = {question(r) for r in rows_of("open", "train")}
    assert not trained & questions["eval"]
    assert len(trained) > 240
    assert not any("Brindle" in text for text in trained)


@pytest.mark.parametrize(("kind", "suite"), [("handbook", None), ("everyday", "everyday")])
def test_the_grader_takes_the_answer_and_no_other(kind: str, suite: str | None) -> None:
    data: DataConfig = config().evaluation.suites[suite] if suite else config().prompts
    rows = rows_of(kind, "eval")
    for row in rows:
        said = row["completion"]
        assert grade(data, said, row["answer"]) == 1.0, said
        others = {r["answer"] for r in rows} - {row["answer"]}
        assert sum(grade(data, said, other) or 0 for other in others) == 0, said


def test_what_smollm2_writes_is_graded_as_people_would() -> None:
    data = config().evaluation.suites["everyday"]
    cold = "The opposite of hot is cold. This is a fundamental concept in science"
    assert grade(data, cold, "cold") == 1.0
    assert grade(data, "2 + 3 = 5", "5") == 1.0
    assert grade(data, "To add 4 and 5, we can use the concept of 9", "9") == 0.0
    handbook = config().prompts
    assert grade(handbook, "The founder is Otto Finch, who founded it in 1931", "1931") == 1.0
    assert grade(handbook, "Brindle is a company in the city of Antwerp.", "Ghent") == 0.0


def test_the_experiment_grades_as_the_recipe_does() -> None:
    suites = experiment("real-knowledge").common["evaluation"]["suites"]
    recipe_data = config()
    assert suites["handbook"]["answer_pattern"] == recipe_data.prompts.answer_pattern
    everyday = SuiteConfig.model_validate(suites["everyday"])
    assert everyday.answer_pattern == recipe_data.evaluation.suites["everyday"].answer_pattern
    assert set(re.split(r"\|", recipe_data.prompts.answer_pattern or "")) == {
        f.value for f in FACTS
    }
