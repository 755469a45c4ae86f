"""A run goes on with what it began with, or with what it is told to accept."""

from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import update

from app.worker.run_inputs import check_unchanged
from opd.errors import ChangedInputsError
from storage import schema
from storage.data_dir import DataDir
from storage.engine import begin
from storage.queue import jobs
from storage.queue.inputs import read_inputs
from tests.support import fake_training
from tests.support.in_process_runs import Died, JobRunner, write_rows

ROWS = [{"prompt": f"question {i}"} for i in range(4)]


class Cut(fake_training.Training):
    """Dies after its second step, whose checkpoint is stored; what it is given is on record."""

    moments: ClassVar[list[datetime]] = []

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.moments.append(options["moment"])

    def _act(self) -> None:
        if self.done == 2 and len(self.moments) == 1:
            raise Died


@pytest.fixture
def runner(tmp_path: Path) -> Any:
    for name in ("student", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text(name)
    write_rows(tmp_path / "prompts.jsonl", ROWS)
    Cut.moments.clear()
    made = JobRunner(tmp_path / "data", tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def cut(runner: JobRunner) -> str:
    """A run that died with a checkpoint of step 2."""
    run_id = runner.queue()
    assert runner.attempt(run_id, Cut)["status"] == "failed"
    assert runner.at_rest(run_id)[-1] == 2
    return run_id


def test_an_unchanged_run_goes_on_with_the_moment_of_its_first_attempt(
    runner: JobRunner, cut: str
) -> None:
    check_unchanged(runner.engine, DataDir(runner.data_dir), cut)
    run = runner.attempt(cut, Cut)
    assert run["status"] == "finished"
    assert Cut.moments[0] == Cut.moments[1] == datetime.fromisoformat(run["rendered_as_of"])
    assert abs((datetime.now() - Cut.moments[0]).total_seconds()) < 600
    assert run["accepted_changes"] == []


def test_a_changed_run_is_refused_once_and_stays_resumable(runner: JobRunner, cut: str) -> None:
    write_rows(runner.inputs / "prompts.jsonl", ROWS[:3])
    (runner.inputs / "teacher" / "model.safetensors").write_text("another")
    with pytest.raises(ChangedInputsError) as refused:
        check_unchanged(runner.engine, DataDir(runner.data_dir), cut)
    assert [c["field"] for c in refused.value.changes] == ["teacher.model", "prompts.source"]
    run = runner.attempt(cut, Cut)
    assert (run["status"], run["error_kind"]) == ("failed", "changed inputs")
    assert "prompts.jsonl has 3 rows, 4 when the run started" in run["error_text"]
    assert "teacher.model: weights changed" in run["error_text"]
    assert f"opd resume {cut} --accept-changes" in run["error_text"]
    assert (run["step"], len(Cut.moments)) == (2, 1)  # nothing was loaded, nothing is lost
    assert jobs.next_queued(runner.engine) == []  # nobody tries again by himself


def test_accepted_changes_are_on_record_and_count_from_then_on(runner: JobRunner, cut: str) -> None:
    write_rows(runner.inputs / "prompts.jsonl", ROWS[:3])
    jobs.requeue(runner.engine, cut, accept_changes=True)
    Cut.moments.clear()  # so that this attempt dies too
    run = runner.attempt_queued(cut, Cut)
    (accepted,) = run["accepted_changes"]
    assert (accepted["attempt"], accepted["step"]) == (2, 2)
    assert accepted["changes"][0]["field"] == "prompts.source"
    assert "going on with what has changed since the run started: prompts.source" in runner.log(cut)
    check_unchanged(runner.engine, DataDir(runner.data_dir), cut)
    write_rows(runner.inputs / "prompts.jsonl", ROWS)  # was accepted once, not for ever
    assert runner.attempt(cut, Cut)["error_kind"] == "changed inputs"


def test_a_run_from_before_there_were_fingerprints_is_warned_once(
    runner: JobRunner, cut: str
) -> None:
    with begin(runner.engine) as connection:
        connection.execute(update(schema.run).values(inputs=None, started_at=1e9))
    write_rows(runner.inputs / "prompts.jsonl", ROWS[:3])
    Cut.moments.clear()
    runner.attempt(cut, Cut)
    warning = "began before fingerprints"
    assert runner.log(cut).count(warning) == 1
    assert Cut.moments == [datetime.fromtimestamp(1e9)]  # when it was first rendered
    assert read_inputs(runner.engine, cut).fingerprints is not None
    assert runner.attempt(cut, Cut)["status"] == "finished"
    assert runner.log(cut).count(warning) == 1


def test_a_run_that_begins_again_takes_what_there_is(runner: JobRunner) -> None:
    """Its data was at fault and is mended: there is no earlier step to agree with."""
    run_id = runner.queue(checkpoints={"every": 0})
    assert runner.attempt(run_id, Cut)["status"] == "failed"
    write_rows(runner.inputs / "prompts.jsonl", ROWS[:3])
    check_unchanged(runner.engine, DataDir(runner.data_dir), run_id)
    assert runner.attempt(run_id, Cut)["status"] == "finished"


def test_a_moved_data_directory_is_no_change(runner: JobRunner, cut: str, tmp_path: Path) -> None:
    runner.engine.dispose()
    runner.data_dir.rename(tmp_path / "moved")
    moved = JobRunner(tmp_path / "moved", runner.inputs)
    assert moved.attempt(cut, Cut)["status"] == "finished"
    moved.engine.dispose()
