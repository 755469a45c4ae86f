"""Teachers by a run's configuration, on the run and on its rollouts."""

from opd.config.run import parse
from opd.types import StepEvent
from storage.engine import open_database
from storage.read.rollouts import read_rollout, read_rollouts
from storage.read.runs import read_run
from storage.read.teachers import teachers_of
from tests.support import stored_runs

HINT = "You know: {answer}."


def test_several_teachers_by_route(tmp_path):
    teacher = {
        "model": "a/first",
        "route_by": "level",
        "routes": {"hard": {"model": "b/second", "system": HINT}},
    }
    engine = open_database(tmp_path)
    run_id, writer = stored_runs.started(engine, teacher=teacher)
    writer.step(StepEvent(1, {}, 1, 1.0, {}, [stored_runs.rollout(1)]), stored_runs.texts)
    first = {"route": "", "name": "a/first", "prompt": None, "system": None}
    second = {"route": "hard", "name": "b/second", "prompt": None, "system": HINT}
    assert read_run(engine, run_id)["teachers"] == [first, second]
    (item,) = read_rollouts(engine, run_id)["items"]
    assert read_rollout(engine, item["id"])["teachers"] == [first, second]
    engine.dispose()


def test_kinds_that_have_no_model_are_named_by_their_kind():
    config = parse({"teacher": {"kind": "self"}}).model_dump(mode="json")
    assert [t["name"] for t in teachers_of(config)] == ["self"]
    assert teachers_of({"teacher": {"kind": "none"}}) == teachers_of({}) == []
