"""lm-eval on the student: the same figure as one computed by hand on a task of our own."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from opd.errors import UserError
from opd.models.load import load_student
from opd.training.held_out.lm_eval_tasks import lm_eval_scores
from tests.support import tiny_models
from tests.support.devices.tested import DEVICE

pytestmark = pytest.mark.device

pytest.importorskip("lm_eval")
CHOICES = ["3", "4", "5"]


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return tiny_models.save_model(tmp_path_factory.mktemp("lm-eval") / "student", scale=3.0)


def task(tmp_path):
    rows = [{"question": f"1 + {i} =", "gold": i % 3} for i in range(12)]
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return rows, {
        "task": "sums",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "gold",
        "doc_to_choice": CHOICES,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }


def by_hand(folder, tokenizer, rows):
    """How often the likeliest choice, after a space, is the right one."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    right = []
    for row in rows:
        prompt = tokenizer(row["question"])["input_ids"]
        totals = []
        for choice in CHOICES:
            ids = tokenizer(f"{row['question']} {choice}")["input_ids"]
            logp = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
            span = range(len(prompt), len(ids))
            totals.append(sum(float(logp[t - 1, ids[t]]) for t in span))
        right.append(int(np.argmax(totals)) == row["gold"])
    return float(np.mean(right))


@pytest.mark.filterwarnings("ignore")  # of lm-eval and what it stands on
def test_a_task_gives_the_figure_that_a_hand_computation_gives(student, tmp_path):
    pair = load_student(student, device=DEVICE)
    rows, description = task(tmp_path)
    (score,) = lm_eval_scores(pair, [description], limit=None)
    assert (score.suite, score.metric, score.n) == ("lm-eval/sums", "acc", len(rows))
    assert score.value == pytest.approx(by_hand(student, pair.tokenizer, rows))
    assert score.standard_error == pytest.approx(
        np.std([1] * round(12 * score.value) + [0] * round(12 - 12 * score.value), ddof=1)
        / np.sqrt(12)
    )


@pytest.mark.filterwarnings("ignore")
def test_an_unknown_task_and_a_missing_extra_are_named(student, monkeypatch):
    pair = load_student(student, device=DEVICE)
    with pytest.raises(UserError, match="no task 'no-such-task'"):
        lm_eval_scores(pair, ["no-such-task"], limit=1)
    monkeypatch.setattr("opd.training.held_out.lm_eval_tasks.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"opd-studio\[lm-eval\]") as caught:
        lm_eval_scores(pair, ["hellaswag"], limit=1)
    assert caught.value.kind == "missing extra"
