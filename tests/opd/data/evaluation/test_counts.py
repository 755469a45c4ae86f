"""What an evaluation asks for is what it uses and all that is missing, each with its reason."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from opd.config.run import parse
from opd.data.prompts import PromptSet, load_prompts
from opd.types import EvaluationCount
from tests.support import tiny_models


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_models.tokenizer()


def rows(path: Path, count: int, *, long: int = 0, unanswered: int = 0, first: int = 0) -> str:
    """Rows of a few tokens with an answer, but for `long` and `unanswered` of them."""
    made = [{"prompt": f"{first + n} + 1 =", "answer": "2"} for n in range(count)]
    for row in made[:long]:
        row["prompt"] += " 1 +" * 60
    for row in made[long : long + unanswered]:
        del row["answer"]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(path)


def counted(tokenizer: Any, **config: Any) -> tuple[PromptSet, dict[str, EvaluationCount]]:
    prompts = load_prompts(parse({"sampling": {"max_new_tokens": 16}, **config}), tokenizer, 256)
    for count in prompts.counts:
        assert count.asked == count.used + sum(m.count for m in count.missing)
        assert all(m.count > 0 and m.remedy for m in count.missing)
    return prompts, {count.suite: count for count in prompts.counts}


def reasons(count: EvaluationCount) -> dict[str, int]:
    return {m.reason: m.count for m in count.missing}


def test_the_bundled_problems_are_as_many_as_asked_for(tokenizer: Any) -> None:
    prompts, counts = counted(tokenizer, evaluation={"prompts": 30}, prompts={"count": 8})
    assert (counts["heldout"].used, counts["heldout"].missing) == (30, ())
    assert str(counts["heldout"]) == "30 held-out prompts" and len(prompts.probe) == 4


def test_a_share_of_the_source_and_the_probes(tokenizer: Any, tmp_path: Path) -> None:
    source = rows(tmp_path / "a.jsonl", 100)
    _, counts = counted(tokenizer, prompts={"source": source, "grader": "exact"})
    assert reasons(counts["heldout"]) == {"eval_share": 190, "probes": 2}
    assert str(counts["heldout"]) == (
        "8 of 200 held-out prompts (190 not held out: prompts.eval_share 0.1 of 100 rows is 10; "
        "2 kept as probes, which are answered but not scored)"
    )


def test_a_short_file_long_prompts_and_rows_without_an_answer(
    tokenizer: Any, tmp_path: Path
) -> None:
    data = {
        "source": rows(tmp_path / "a.jsonl", 20, first=100),
        "eval_source": rows(tmp_path / "b.jsonl", 50, long=7, unanswered=5),
        "max_prompt_tokens": 64,
        "overlong": "drop",
        "probe": 0,
    }
    suites = {
        "short": {"source": rows(tmp_path / "c.jsonl", 5), "count": 9},
        "whole": {"source": rows(tmp_path / "d.jsonl", 9), "count": 9},
        "plain": {
            "source": rows(tmp_path / "e.jsonl", 9, unanswered=9),
            "count": 9,
            "grader": "none",
        },
    }
    prompts, counts = counted(tokenizer, prompts=data, evaluation={"prompts": 60, "suites": suites})
    assert reasons(counts["heldout"]) == {"source": 10, "too_long": 7, "no_answer": 5}
    assert counts["heldout"].used == 38
    assert sum(p.answer is not None for p in prompts.held_out) == 38
    assert reasons(counts["short"]) == {"source": 4}
    assert counts["short"].field == "evaluation.suites.short.count"
    assert not counts["whole"].missing and not counts["plain"].missing


def test_rows_that_are_left_out_of_training_leave_the_evaluation_whole(
    tokenizer: Any, tmp_path: Path
) -> None:
    data = {
        "source": rows(tmp_path / "a.jsonl", 30),
        "eval_source": rows(tmp_path / "b.jsonl", 20),
        "exclude_evaluation": True,
        "probe": 0,
    }
    prompts, counts = counted(tokenizer, prompts=data, evaluation={"prompts": 20})
    assert len(prompts.train) == 10 and not counts["heldout"].missing


def test_the_numbers_add_up_whatever_the_data(tokenizer: Any, tmp_path: Path) -> None:
    random.seed(0)
    for number in range(25):
        probe = random.choice([None, 0])
        long = int(probe == 0)  # all probes being too long is refused
        path = tmp_path / f"{number}.jsonl"
        data = {
            "source": rows(path, random.randint(30, 60), long=long, unanswered=2),
            "max_prompt_tokens": 64,
            "overlong": "drop",
            "eval_share": random.choice([0.1, 0.3, 0.5]),
            "probe": probe,
            "count": random.randint(1, 80),
        }
        if random.random() < 0.5:
            path = tmp_path / f"{number}-eval.jsonl"
            data["eval_source"] = rows(path, random.randint(8, 40), long=long)
        limit = random.randint(1, 40)
        prompts, counts = counted(tokenizer, prompts=data, evaluation={"prompts": limit})
        graded = [p for p in prompts.held_out if p.answer is not None]
        assert (counts["heldout"].asked, counts["heldout"].used) == (limit, len(graded))
