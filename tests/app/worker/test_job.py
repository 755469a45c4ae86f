"""What a job stores and logs of its prompts: how many are evaluated, and why fewer than asked."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.commands import commands
from storage.read.runs import read_evaluations, read_run
from tests.support.in_process_runs import JobRunner, write_rows
from tests.support.tiny_models import save_pair


@pytest.fixture
def runner(tmp_path: Path) -> JobRunner:
    return JobRunner(tmp_path / "data", save_pair(tmp_path / "inputs"))


def test_asked_is_used_and_each_reason(runner: JobRunner, tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "answer": "3"} for n in range(6)]
    del rows[2]["answer"]
    suite = {"source": write_rows(tmp_path / "suite.jsonl", rows), "split": "x", "count": 9}
    evaluation = {"prompts": 5, "keep": 1, "temperatures": [1.0], "suites": {"more": suite}}
    run_id = runner.queue(steps=1, checkpoints={"every": 0}, evaluation=evaluation)
    assert runner.attempt(run_id)["status"] == "finished"
    heldout, more = read_run(runner.engine, run_id)["evaluation_prompts"]
    assert (heldout["asked"], heldout["used"], more["asked"], more["used"]) == (5, 2, 9, 5)
    for count in (heldout, more):
        assert count["asked"] == count["used"] + sum(m["count"] for m in count["missing"])
    assert {m["reason"]: m["count"] for m in heldout["missing"]} == {"eval_share": 3}
    assert {m["reason"]: m["count"] for m in more["missing"]} == {"source": 3, "no_answer": 1}
    scored = {
        (item["suite"], item["n"])
        for item in read_evaluations(runner.engine, run_id)["items"]
        if item["metric"] == "pass@1"
    }
    assert scored == {("heldout", heldout["used"]), ("more", more["used"])}
    line = "2 of 5 held-out prompts (3 not held out: prompts.eval_share 0.1 of 20 rows is 2)"
    assert f"18 training prompts; evaluation on {line}, 5 of 9 prompts of more" in runner.log(
        run_id
    )
    shown = CliRunner().invoke(commands, ["show", run_id, "--data-dir", str(runner.data_dir)])
    assert f"scored      {line}" in shown.output
