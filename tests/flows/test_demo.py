"""A finished run of the bundled pair, end to end by the command line, checked from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests import warm_starts

STEPS = 3


def command(*arguments):
    """Runs `opd` in a process of its own; its standard output."""
    # The training starts as a user's does.
    cold = {warm_starts.COLD: "1"} if arguments[0] == "train" else {}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | cold,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The data folder and the result of a short demo run."""
    data = tmp_path_factory.mktemp("demo")
    out = command(
        "train",
        "demo",
        "--data-dir",
        data,
        "--json",
        "--set",
        f"steps={STEPS}",
        "--set",
        "evaluation.prompts=100",
        "--set",
        "evaluation.every=0",
    )
    return data, json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def shown(demo):
    data, result = demo
    return json.loads(command("show", result["run_id"], "--data-dir", data, "--json"))


@pytest.fixture(scope="module")
def exported(demo, tmp_path_factory):
    """Every rollout of the run, as `opd export` writes it."""
    data, result = demo
    out = tmp_path_factory.mktemp("exported") / "out.jsonl"
    command("export", result["run_id"], "--data-dir", data, "--out", out)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_the_student_gets_better(demo):
    _, result = demo
    metrics = result["metrics"]
    assert result["status"] == "finished"
    assert result["steps"] == STEPS
    assert metrics["eval/heldout/pass@1"] > metrics["eval/heldout/pass@1/start"] + 0.1
    assert metrics["reverse_kl"] < 0.4
    assert metrics["sampler_gap"] < 1e-3


def test_records_equal_plain_float64_transformers(shown, exported):
    """Step 1 by the bundled student, the last evaluation by the checkpoint: both known weights."""
    resolved, (checkpoint,) = shown["resolved"], shown["checkpoints"]
    first = [r for r in exported if r["kind"] == "train" and r["step"] == 1][:8]
    last = [r for r in exported if r["kind"] == "eval" and r["step"] == STEPS][:8]
    assert len(first) == len(last) == 8
    worst = max(
        largest_difference(first, resolved["student"], resolved["teacher"]),
        largest_difference(last, checkpoint["path"], resolved["teacher"]),
    )
    assert worst <= 1e-4


def largest_difference(rows, student, teacher):
    models = [
        AutoModelForCausalLM.from_pretrained(Path(f), dtype=torch.float64).eval()
        for f in (student, teacher)
    ]
    worst = 0.0
    for row in rows:
        p, q = (log_probs(m, row) for m in models)
        t, x = np.arange(len(p)), np.array(row["completion_token_ids"])
        expected = {
            "sampler_logprobs": p[t, x],
            "student_logprobs": p[t, x],
            "teacher_logprobs": q[t, x],
            "reverse_kl": (np.exp(p) * (p - q)).sum(-1),
            "student_entropy": -(np.exp(p) * p).sum(-1),
            "teacher_entropy": -(np.exp(q) * q).sum(-1),
        }
        for name, values in expected.items():
            assert len(row[name]) == len(x)
            worst = max(worst, float(np.abs(np.array(row[name]) - values).max()))
        assert row["teacher_rank"] == (q > q[t, x][:, None]).sum(-1).tolist()
        for name, logp in (("student_topk", p), ("teacher_topk", q)):
            for position, pairs in enumerate(row[name]):
                ids, values = zip(*pairs, strict=True)
                sampled = logp[position]
                worst = max(worst, float(np.abs(sampled[list(ids)] - np.array(values)).max()))
                assert min(values) >= np.sort(sampled)[-len(ids)] - 1e-4
    return worst


def log_probs(model, row):
    prompt, completion = row["prompt_token_ids"], row["completion_token_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + completion])).logits[0]
    return torch.log_softmax(logits[len(prompt) - 1 : -1] / row["temperature"], -1).numpy()


def test_rows_are_whole_and_graded(exported):
    rows = exported
    assert {r["kind"] for r in rows} == {"train", "eval", "probe"}
    assert sum(r["kind"] == "train" for r in rows) == STEPS * 128
    for row in rows:
        assert row["finish_reason"] in ("stop", "length")
        assert row["reward"] in (0.0, 1.0)
        assert row["completion"].startswith("<think>")
        assert all(kl >= -1e-5 for kl in row["reverse_kl"])
    probes = [r for r in rows if r["kind"] == "probe"]
    answers = {(r["group"], tuple(r["completion_token_ids"])) for r in probes}
    assert len(answers) == len({r["group"] for r in probes}) == 8  # the same ones at every step
    assert len({r["step"] for r in probes}) * 8 == len(probes)


def test_saved_student_loads_in_transformers_and_scores_as_recorded(demo, tmp_path, opd):
    data, result = demo
    out = tmp_path / "saved"
    command("save", result["run_id"], "--data-dir", data, "--out", out)
    model = AutoModelForCausalLM.from_pretrained(out)
    assert model.num_parameters() == 863_104
    card = (out / "README.md").read_text()
    assert result["run_id"] in card
    assert "reverse_kl" in card
    assert f"{result['metrics']['eval/heldout/pass@1']:.3f}" in card
    assert not list(out.glob("*optimizer*"))
    # Once more, in this process: whatever is not an exit, such as an error with a traceback, fails
    arguments = ("save", result["run_id"], "--data-dir", str(data), "--out", str(out))
    code, _, err = opd(*arguments)
    assert code == 2 and err.splitlines()[-1].startswith("Error: --out ")
    assert "Traceback" not in err


def test_scoring_the_exported_rollouts_again_gives_the_same_records(shown, exported, tmp_path):
    """`opd score` with the same weights: another path to the same numbers."""
    rows = [r for r in exported if r["kind"] == "train" and r["step"] == 1]
    (tmp_path / "in.jsonl").write_text(
        "\n".join(
            json.dumps({k: r[k] for k in ("prompt_token_ids", "completion_token_ids")})
            for r in rows
        )
    )
    command(
        "score",
        "--student",
        shown["resolved"]["student"],
        "--teacher",
        shown["resolved"]["teacher"],
        "--rollouts",
        tmp_path / "in.jsonl",
        "--out",
        tmp_path / "again.jsonl",
    )
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()]
    assert len(again) == len(rows)
    for a, b in zip(rows, again, strict=True):
        assert a["completion_token_ids"] == b["completion_token_ids"]
        np.testing.assert_allclose(a["reverse_kl"], b["reverse_kl"], atol=1e-4)
        np.testing.assert_allclose(a["teacher_logprobs"], b["teacher_logprobs"], atol=1e-4)
