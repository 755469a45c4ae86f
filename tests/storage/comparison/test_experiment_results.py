"""What an experiment found, against numbers worked out by hand."""

import pytest
from sqlalchemy import Engine, update

from opd.errors import ErrorKind, UserError
from opd.experiments.definition import with_settings
from opd.experiments.plan import Key, Plan, PlannedRun
from opd.types import EvaluationEvent, Score, StepEvent
from storage import schema
from storage.comparison import experiment_results
from storage.engine import begin
from storage.queue import experiments, jobs
from storage.read.runs import read_run, read_runs
from storage.write.records import RunWriter
from tests.support.experiment_definition import data, definition
from tests.support.stored_runs import OWNER, texts

SECONDS = {"sample": 0.5, "teacher": 0.25}


def plan_of(engine: Engine, name: str) -> Plan:
    return experiments.plan_of(engine, experiments.experiment_row(engine, name))


def next_run(engine: Engine, name: str) -> tuple[str, PlannedRun]:
    """Makes the run that is wanted next, without running it."""
    planned = plan_of(engine, name).next_run
    assert planned is not None
    run_id = experiments.add_run(engine, name, planned.key, planned.config)
    assert run_id is not None
    return run_id, planned


def claimed(engine: Engine, run_id: str) -> int:
    attempt = jobs.claim(engine, run_id, run_id, OWNER)
    assert attempt is not None
    return attempt


def act(engine: Engine, name: str, scores: dict[str, list[float]], **figures: float) -> str:
    """Runs the next wanted run: the scores of its arm, one an evaluation from the start on."""
    run_id, planned = next_run(engine, name)
    attempt = claimed(engine, run_id)
    writer = RunWriter(engine, run_id, attempt)
    for step, value in enumerate(scores[planned.key.arm]):
        if step:
            flops = 8e9 if planned.key.arm == "rl" else 2e9
            writer.step(StepEvent(step, SECONDS, 100, flops, figures), texts)
        both_suites = [
            Score("heldout", "pass@1", value, 50, 0.05),
            Score("far", "pass@1", value / 2, 9, 0),
        ]
        writer.evaluation(EvaluationEvent(step, both_suites), texts)
    jobs.finish(engine, run_id, attempt, "finished")
    return run_id


RISING = {"rl": [0.2, 0.4, 0.6, 0.8], "opd": [0.2, 0.7, 0.8]}


@pytest.fixture
def quick(engine: Engine) -> str:
    """One seed of two arms; RL ends with 0.8, less 0.05 is the target."""
    name = experiments.create_experiment(engine, definition(), quick=True)
    act(engine, name, RISING)
    act(engine, name, RISING)
    return name


def test_costs_are_where_the_line_between_two_evaluations_meets_the_target(
    engine: Engine, quick: str
) -> None:
    results = experiment_results.experiment(engine, quick)
    rl, opd = results["arms"]
    assert results["target"]["values"] == [{"seed": 0, "value": pytest.approx(0.75)}]
    assert rl["steps_to_target"] == pytest.approx(2.75)  # 0.6 + 0.75 · 0.2
    assert opd["steps_to_target"] == pytest.approx(1.5)
    assert rl["tokens_to_target"] == pytest.approx(275)
    assert rl["flops_to_target"] == pytest.approx(2.75 * 8e9)
    assert opd["seconds_to_target"] == pytest.approx(1.5 * 0.75, rel=0.1)  # the store adds its own
    assert (rl["score"], rl["low"], rl["n"], rl["reached"]) == (0.8, None, 1, 1)
    ratios = results["ratios"]
    assert ratios["steps"] == {"value": pytest.approx(2.75 / 1.5), "low": None, "high": None}
    assert ratios["flops"]["value"] == pytest.approx(2.75 / 1.5 * 4)
    assert results["comparisons"][0]["label"] == "RL ÷ OPD"
    assert rl["curve"]["y"] == RISING["rl"]
    assert rl["curve"]["step"] == [0, 1, 2, 3]
    assert (results["done"], results["total"]) == (2, 2)
    assert results["command"] == "opd experiment small --quick"


def test_a_target_that_was_missed_is_an_outcome(engine: Engine) -> None:
    name = experiments.create_experiment(engine, definition(), quick=True)
    for _ in range(2):
        act(engine, name, {**RISING, "opd": [0.2, 0.3]})
    results = experiment_results.experiment(engine, name)
    assert results["arms"][1]["reached"] == 0
    assert results["arms"][1]["steps_to_target"] is None
    assert results["ratios"]["steps"]["value"] is None
    assert results["arms"][1]["runs"][0]["costs"] is None
    assert results["comparisons"][0]["reached"] is False


def test_seeds_are_divided_one_by_one_and_all_must_get_there(engine: Engine) -> None:
    name = experiments.create_experiment(engine, definition(), quick=True, seeds=3)
    for scores in (
        RISING,
        RISING,
        {"rl": [0.2, 0.3, 0.4]},
        {"opd": [0.2, 0.35, 0.5]},
        RISING,
        RISING,
    ):
        act(engine, name, scores)
    results = experiment_results.experiment(engine, name)
    rl, opd = results["arms"]
    # The second seed's target is 0.35: 1.5 steps of RL, 1 of OPD.
    assert rl["steps_to_target"] == pytest.approx((2.75 + 1.5 + 2.75) / 3)
    assert opd["steps_to_target"] == pytest.approx((1.5 + 1 + 1.5) / 3)
    pair = results["comparisons"][0]
    assert (pair["reached"], pair["n"]) == (True, 3)
    steps = results["ratios"]["steps"]
    assert steps["value"] == pytest.approx((2.75 + 1.5 + 2.75) / (1.5 + 1 + 1.5))
    # All three of one seed are drawn in more than 2.5% of the resamples: 1/27 each.
    assert (steps["low"], steps["high"]) == (pytest.approx(1.5), pytest.approx(2.75 / 1.5))
    assert rl["score"] == pytest.approx(2 / 3)
    assert (rl["low"], rl["high"]) == (pytest.approx(0.4), pytest.approx(0.8))
    missed = experiments.create_experiment(engine, definition(), quick=True, seeds=2)
    for scores in (RISING, RISING, {"rl": [0.2, 0.3, 0.4]}, {"opd": [0.2, 0.3]}):
        act(engine, missed, scores)
    results = experiment_results.experiment(engine, missed)
    assert results["arms"][1]["reached"] == 1
    assert results["ratios"]["steps"]["value"] is None


def test_what_a_teacher_wrote_can_be_left_out(engine: Engine) -> None:
    pairs = [
        {"over": "rl", "under": "opd"},
        {"over": "rl", "under": "opd", "without_teacher_sampling": True},
    ]
    name = experiments.create_experiment(engine, definition(pairs=pairs), quick=True)
    for _ in range(2):
        act(engine, name, RISING, teacher_sampling_flops=5e8)
    whole, bare = experiment_results.experiment(engine, name)["comparisons"]
    assert whole["ratios"]["flops"]["value"] == pytest.approx(2.75 * 8 / (1.5 * 2))
    assert bare["ratios"]["flops"]["value"] == pytest.approx(2.75 * 7.5 / (1.5 * 1.5))
    assert bare["ratios"]["steps"] == whole["ratios"]["steps"]
    assert whole["ratios"]["seconds"]["value"] > 0
    assert bare["ratios"]["seconds"]["value"] is None  # how long the teacher wrote is not known
    assert bare["reached"]


def test_columns_stand_beside_their_start(engine: Engine) -> None:
    columns = [
        {"metric": "heldout/pass@1", "label": "near"},
        {"metric": "far/pass@1", "label": "far"},
    ]
    name = experiments.create_experiment(engine, definition(columns=columns), quick=True)
    for _ in range(2):
        act(engine, name, RISING)
    table = experiment_results.experiment(engine, name)["table"]
    assert [row["label"] for row in table] == ["Start", "RL", "OPD"]
    assert table[0]["score"] == table[0]["cells"]["heldout/pass@1"]["value"] == pytest.approx(0.2)
    assert [row["cells"]["far/pass@1"]["value"] for row in table] == [
        pytest.approx(v) for v in (0.1, 0.4, 0.4)
    ]


def test_tuning_is_judged_by_its_criterion(engine: Engine) -> None:
    arms = data()["arms"]
    arms["opd"] |= {"criterion": ["heldout/pass@1", "far/pass@1"], "judged_by": "last"}
    name = experiments.create_experiment(engine, definition(arms=arms), quick=False)
    for scores in ([0.1, 0.9, 0.5], [0.2, 0.3, 0.6]):
        act(engine, name, {"rl": scores})
    rl = experiment_results.experiment(engine, name)["arms"][0]
    assert [c["criterion"] for c in rl["choices"]] == [pytest.approx(0.7), pytest.approx(0.45)]
    assert [c["chosen"] for c in rl["choices"]] == [True, False]
    assert rl["chosen"] == {"optimizer.learning_rate": 0.001}
    for scores in ([0.1, 0.9, 0.4], [0.1, 0.2, 0.6]):
        act(engine, name, {"opd": scores})
    opd = experiment_results.experiment(engine, name)["arms"][1]
    assert [c["criterion"] for c in opd["choices"]] == [pytest.approx(0.3), pytest.approx(0.45)]
    assert opd["choices"][1]["chosen"]


def test_the_list_has_the_newest_first_with_how_far_they_are(engine: Engine, quick: str) -> None:
    other = experiments.create_experiment(engine, definition(), quick=False, seeds=3)
    page = experiment_results.experiments(engine)
    assert [item["id"] for item in page["items"]] == [other, quick]
    assert [(i["done"], i["total"]) for i in page["items"]] == [(0, 4 + 6), (2, 2)]
    assert page["total"] == 2
    assert [
        i["id"] for i in experiment_results.experiments(engine, limit=1, offset=1)["items"]
    ] == [quick]


def test_the_same_key_is_the_same_experiment(engine: Engine) -> None:
    first = experiments.create_experiment(engine, definition(), quick=True, request_key="k")
    assert experiments.create_experiment(engine, definition(), quick=True, request_key="k") == first
    assert experiment_results.experiments(engine)["total"] == 1
    with pytest.raises(UserError, match=r"seeds: must be 1 to 50 \(got 51\)"):
        experiments.create_experiment(engine, definition(), quick=True, seeds=51)
    with pytest.raises(UserError, match="exp-none: no such experiment"):
        experiment_results.experiment(engine, "exp-none")


def test_a_run_asked_for_twice_is_made_once(engine: Engine) -> None:
    name = experiments.create_experiment(engine, definition(), quick=True)
    first, planned = next_run(engine, name)
    assert experiments.add_run(engine, name, planned.key, planned.config) == first
    assert experiments.open_runs(engine, name) == [first]
    assert read_runs(engine, tag=name)["total"] == read_runs(engine, tag="small")["total"] == 1


def test_cancelling_and_going_on(engine: Engine, quick: str) -> None:
    name = experiments.create_experiment(engine, definition(), quick=True)
    run_id, _ = next_run(engine, name)
    assert experiments.cancel_experiment(engine, name) == "cancelled"
    assert read_run(engine, run_id)["status"] == "cancelled"
    with pytest.raises(UserError, match="is not running"):
        experiments.cancel_experiment(engine, name)
    assert experiments.resume_experiment(engine, name) == "running"
    assert read_run(engine, run_id)["status"] == "queued"
    with pytest.raises(UserError, match="cannot be resumed: it is running"):
        experiments.resume_experiment(engine, name)
    assert experiments.end_experiment(engine, quick, "finished")
    with pytest.raises(UserError, match="cannot be resumed: it is finished"):
        experiments.resume_experiment(engine, quick)


def test_one_that_is_stopping_or_was_taken_up_already_cannot_be_resumed(engine: Engine) -> None:
    name = experiments.create_experiment(engine, definition(), quick=True)
    run_id, _ = next_run(engine, name)
    attempt = claimed(engine, run_id)
    experiments.cancel_experiment(engine, name)
    with pytest.raises(UserError, match="is running: it may be stopping"):
        experiments.resume_experiment(engine, name)
    jobs.finish(engine, run_id, attempt, "cancelled")
    experiments.resume_experiment(engine, name, OWNER)
    assert experiments.running_experiments(engine) == [(name, OWNER)]
    with pytest.raises(UserError, match="it is running"):
        experiments.resume_experiment(engine, name)


def test_no_run_is_made_for_one_that_was_cancelled_meanwhile(engine: Engine) -> None:
    name = experiments.create_experiment(engine, definition(), quick=True)
    planned = plan_of(engine, name).next_run
    assert planned is not None
    experiments.cancel_experiment(engine, name)
    assert experiments.add_run(engine, name, planned.key, planned.config) is None
    assert experiments.open_runs(engine, name) == []


def test_where_every_choice_failed_all_are_tried_again(engine: Engine) -> None:
    name = experiments.create_experiment(engine, definition(), quick=False)
    for _ in range(2):
        run_id, _ = next_run(engine, name)
        jobs.finish(
            engine,
            run_id,
            claimed(engine, run_id),
            "failed",
            jobs.Failure(ErrorKind.MISSING_MODEL, ""),
        )
    assert plan_of(engine, name).problem
    experiments.end_experiment(engine, name, "failed")
    experiments.resume_experiment(engine, name)
    assert len(experiments.open_runs(engine, name)) == 2


def test_settings_are_part_of_the_command_and_a_fingerprint_of_what_was_run(engine: Engine) -> None:
    changed = with_settings(definition(), ["steps=2", "prompts.source=a b.jsonl"])
    name = experiments.create_experiment(engine, changed, quick=True)
    results = experiment_results.experiment(engine, name)
    assert results["command"] == (
        "opd experiment small --quick --set steps=2 --set 'prompts.source=a b.jsonl'"
    )
    assert results["fingerprint"] == changed.fingerprint != definition().fingerprint
    assert definition(shows="Other words.").fingerprint == definition().fingerprint


def test_to_repeat_one_from_a_file_takes_the_file(engine: Engine) -> None:
    made = definition(source="/tmp/my file.yaml")
    name = experiments.create_experiment(engine, made, quick=True)
    assert experiment_results.experiment(engine, name)["command"] == (
        "opd experiment '/tmp/my file.yaml' --quick"
    )
    assert made.fingerprint == definition().fingerprint


def test_the_target_is_of_what_came_after_the_start(engine: Engine) -> None:
    """Of "the last three", where there are two evaluations, of which one is before training."""
    made = definition(target={"arm": "rl", "last": 3, "margin": 0.05})
    name = experiments.create_experiment(engine, made, quick=True)
    act(engine, name, {"rl": [0.2, 0.8]})
    assert targets(engine, name) == [pytest.approx(0.75)]
    only = experiments.create_experiment(engine, made, quick=True)
    act(engine, only, {"rl": [0.2]})
    assert targets(engine, only) == []


def targets(engine: Engine, name: str) -> list[float]:
    return [t["value"] for t in experiment_results.experiment(engine, name)["target"]["values"]]


def test_one_of_another_version_says_so_and_leaves_the_list_alone(engine: Engine) -> None:
    kept = experiments.create_experiment(engine, definition(), quick=True)
    other = experiments.create_experiment(engine, definition(), quick=True)
    stored = definition().model_dump(mode="json") | {"gone": 1}
    with begin(engine) as connection:
        table = schema.experiment
        connection.execute(update(table).where(table.c.id == other).values(definition=stored))
    items = {item["id"]: item for item in experiment_results.experiments(engine)["items"]}
    assert items[kept]["total"] == 2 and items[kept]["error_text"] == ""
    assert (
        "another version of this program stored its definition (gone: Extra"
        in items[other]["error_text"]
    )
    with pytest.raises(UserError, match="another version"):
        experiment_results.experiment(engine, other)
    assert experiments.cancel_experiment(engine, other) == "cancelled"


def test_resumed_all_at_once_or_not_at_all(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks meanwhile never sees an experiment that runs while its run is still cancelled."""
    name = experiments.create_experiment(engine, definition(), quick=True)
    run_id, _ = next_run(engine, name)
    experiments.cancel_experiment(engine, name)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "requeue_within", dies)
        with pytest.raises(KeyboardInterrupt):
            experiments.resume_experiment(engine, name)
    assert experiment_results.experiment(engine, name)["status"] == "cancelled"
    experiments.resume_experiment(engine, name)
    assert experiments.open_runs(engine, name) == [run_id]


def test_a_choice_that_broke_is_not_tried_again(engine: Engine) -> None:
    name = experiments.create_experiment(engine, definition(), quick=False)
    run_id, _ = next_run(engine, name)
    jobs.finish(
        engine, run_id, claimed(engine, run_id), "failed", jobs.Failure(ErrorKind.NAN_LOSS, "")
    )
    act(engine, name, RISING)  # the other rate, which is chosen
    experiments.end_experiment(engine, name, "stopped")
    experiments.resume_experiment(engine, name)
    assert read_run(engine, run_id)["status"] == "failed"
    plan = plan_of(engine, name)
    assert plan.next_run and plan.next_run.key == Key("tune", "opd", 0, 1000)
