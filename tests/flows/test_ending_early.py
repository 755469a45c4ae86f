"""A run that ends by its own setting: whole like any other, and the same after a kill."""

import base64
import gzip
import json
import re

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from app.cli.commands import commands as app
from app.report import report
from opd.errors import UserError
from opd.types import CheckpointEvent, EvaluationEvent
from storage import schema
from storage.engine import begin
from storage.queue.jobs import requeue
from storage.read.runs import read_evaluations, read_steps
from tests.support.in_process_runs import JobRunner, dying
from tests.support.tiny_models import save_pair

NO_BETTER = "stop.patience: 2 evaluations without a better score than heldout pass@1 0"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return save_pair(tmp_path_factory.mktemp("ending"))


@pytest.fixture
def runner(inputs, tmp_path):
    return JobRunner(tmp_path / "data", inputs)


def patient(runner, **changes):
    """A run of these models, which get nothing right: it ends after its second evaluation."""
    suite = {"source": str(runner.inputs / "prompts.jsonl"), "count": 2, "when": "ends"}
    evaluation = {"every": 1, "prompts": 2, "keep": 1, "suites": {"more": suite | {"split": "x"}}}
    return runner.queue(
        **{"steps": 6, "stop": {"patience": 2}, "checkpoints": {"every": 0}} | changes,
        evaluation=evaluation,
    )


def evaluated(runner, run_id, suite):
    items = read_evaluations(runner.engine, run_id)["items"]
    return [i["step"] for i in items if (i["suite"], i["metric"]) == (suite, "pass@1")]


def assert_ended_after_two(runner, run_id, run):
    assert (run["status"], run["step"], run["steps"]) == ("finished", 2, 6)
    assert run["end_reason"] == f"{NO_BETTER} before training"
    assert runner.at_rest(run_id) == [2]
    assert read_steps(runner.engine, run_id)["columns"]["step"] == [1, 2]
    assert evaluated(runner, run_id, "heldout") == [0, 1, 2]
    assert evaluated(runner, run_id, "more") == [0, 2]  # as at any end


def test_it_is_evaluated_and_saved_as_at_the_last_step_and_says_why(runner):
    run_id = patient(runner)
    assert_ended_after_two(runner, run_id, runner.attempt(run_id))
    assert f"the run ends here: {NO_BETTER}" in runner.log(run_id)

    shown = CliRunner().invoke(app, ["show", run_id, "--data-dir", str(runner.data_dir)])
    assert f"ended by    {NO_BETTER}" in shown.output
    with pytest.raises(UserError, match="cannot be resumed: it is finished"):
        requeue(runner.engine, run_id)
    packed = re.findall(r'data-block="report">([^<]+)<', report(runner.engine, run_id).html)
    data = json.loads(gzip.decompress(base64.b64decode(packed[0])))
    assert data["run"]["end_reason"].startswith(NO_BETTER)


@pytest.mark.parametrize("kind", [EvaluationEvent, CheckpointEvent])
def test_killed_at_its_end_it_ends_there_again(runner, kind):
    run_id = patient(runner, checkpoints={"every": 1, "keep": 1})
    killed = dying(lambda event: isinstance(event, kind) and event.step == 2)
    assert runner.attempt(run_id, killed)["end_reason"] == ""
    assert_ended_after_two(runner, run_id, runner.attempt(run_id))


def test_its_minutes_are_those_of_all_attempts(runner):
    run_id = runner.queue(stop={"minutes": 1}, checkpoints={"every": 1}, evaluation={"prompts": 2})
    runner.attempt(run_id, dying(lambda e: isinstance(e, CheckpointEvent) and e.step == 1))
    with begin(runner.engine) as connection:
        connection.execute(update(schema.run).values(seconds=1.0))
    run = runner.attempt(run_id, dying(lambda e: isinstance(e, CheckpointEvent) and e.step == 2))
    assert run["status"] == "failed" and run["step"] == 2  # there was time left
    with begin(runner.engine) as connection:
        connection.execute(update(schema.run).values(seconds=61.0))
    run = runner.attempt(run_id)
    assert (run["status"], run["step"], run["steps"]) == ("finished", 2, 4)
    assert run["end_reason"] == "stop.minutes: 1.0 minutes have passed, of 1"
    assert evaluated(runner, run_id, "heldout") == [0, 2]
    assert runner.at_rest(run_id)[-1] == 2
