"""Which rows a run takes, in which form they were read, and which are left out of training."""

import json

import pytest

from opd.config.run import parse
from opd.data.drafts import forms_text, read_drafts
from opd.errors import UserError


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def settings(tmp_path):
    train = [{"prompt": p} for p in ("a", "B  c", "d", "e", "a")]
    held_out = [{"prompt": "b C"}, {"prompt": "z"}]
    suite = [{"conversations": [{"from": "human", "value": " D"}]}]
    return {
        "prompts": {
            "source": write(tmp_path / "train.jsonl", train),
            "eval_source": write(tmp_path / "eval.jsonl", held_out),
        },
        "evaluation": {"suites": {"chat": {"source": write(tmp_path / "suite.jsonl", suite)}}},
    }


def test_rows_in_training_and_evaluation_are_told(settings):
    said = []
    sets = read_drafts(parse(settings), said.append)
    assert len(sets.train) == 5 and sets.findings.excluded == 0
    common = {
        o.evaluation: [a.rpartition(":")[2] for a, _ in o.rows] for o in sets.findings.overlaps
    }
    assert common == {"the held-out prompts": ["2"], "suite chat": ["3"]}
    assert [b.rpartition(":")[2] for _, b in sets.findings.repeats] == ["5"]
    lines = [line for line in said if "are also in" in line]
    assert lines[0].startswith("1 of 5 training prompts are also in the held-out prompts")
    assert any(line.endswith("suite.jsonl read as ShareGPT") for line in said)


def test_rows_of_an_evaluation_are_left_out_by_choice(settings):
    settings["prompts"]["exclude_evaluation"] = True
    said = []
    sets = read_drafts(parse(settings), said.append)
    assert [d.text for d in sets.train] == ["a", "e", "a"]
    assert (sets.findings.excluded, said[-1]) == (
        2,
        "2 of 5 training prompts were left out for that",
    )
    settings["prompts"]["eval_source"] = settings["prompts"]["source"]
    with pytest.raises(UserError, match=r"prompts\.exclude_evaluation: leaves no training prompt"):
        read_drafts(parse(settings))


def test_a_repeated_row_that_is_partly_held_out_is_told(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": "same"}] * 6)
    sets = read_drafts(parse({"prompts": {"source": path}}))
    assert len(sets.findings.overlaps[0].rows) == len(sets.train) == 5


def test_bundled_sets_have_nothing_in_common():
    findings = read_drafts(parse({"prompts": {"count": 40}})).findings
    assert (findings.overlaps, findings.forms) == ([], {})


def test_forms_in_words():
    assert forms_text({"text": 3}) == "text"
    assert forms_text({"text": 3000, "ShareGPT": 1}) == "text (3,000), ShareGPT (1)"
