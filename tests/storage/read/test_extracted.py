"""What lists and pages say that the grader extracted, with marks that only the tokens hold."""

from typing import Any

import numpy as np
import pytest

from opd.types import StepEvent
from storage.read.rollouts import CUT, read_rollout, read_rollouts
from tests.support import stored_runs
from tests.support.databases.matrix import new_database

END = 290  # special, and the end of the reasoning


def texts(ids: Any) -> dict[int, tuple[bytes, bool]]:
    return stored_runs.texts(ids) | ({END: (b"</think>", True)} if END in ids else {})


@pytest.fixture
def engine(tmp_path):
    made = new_database(tmp_path)
    yield made
    made.dispose()


def stored(engine, grader, *rollouts, **more):
    prompts = {"grader": grader, **more}
    run_id, writer = stored_runs.started(engine, grader, prompts=prompts)
    writer.step(StepEvent(1, {}, 10, 1.0, {}, rollouts), texts)
    return {item["completion"]: item for item in read_rollouts(engine, run_id)["items"]}


def test_the_list_and_the_page_say_what_was_extracted(engine):
    said = stored_runs.rollout(1, 0, completion="so 1,234 in all", answer="1234")
    silent = stored_runs.rollout(1, 1, completion="no idea", answer="7" * 2 * CUT)
    items = stored(engine, "numeric", said, silent)
    one, other = items["so 1,234 in all"], items["no idea"]
    assert (one["answer"], one["extracted"], one["extraction_note"]) == ("1234", "1,234", "")
    assert (other["extracted"], other["extraction_note"]) == (None, "no number")
    assert other["answer"] == "7" * CUT
    page = read_rollout(engine, other["id"])
    assert (page["answer"], page["grader"]) == ("7" * 2 * CUT, "numeric")
    assert page["extraction_note"] == "no number"


def test_marks_of_the_reasoning_that_are_special_tokens_count(engine):
    record = stored_runs.record(tokens=3)
    record.completion_ids[:] = np.array([104, END, 105])
    made = stored_runs.rollout(1, completion=" w104 w105", record=record)
    (item,) = stored(engine, "exact", made).values()
    assert item["extracted"] == "w105"
    assert read_rollout(engine, item["id"])["extracted"] == "w105"


def test_without_a_grader_it_says_so(engine):
    (item,) = stored(engine, "none", stored_runs.rollout(1)).values()
    assert item["extracted"] is None and "no grader" in item["extraction_note"]
