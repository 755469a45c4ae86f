"""Rollouts of one prompt, in one run and across runs, against a look at every row."""

import time
from dataclasses import replace

import numpy as np
import pytest
from sqlalchemy import text

from opd.errors import UserError
from opd.types import EvaluationEvent, StepEvent
from storage import packing
from storage.engine import read
from storage.queue import jobs, run_details
from storage.read.related import read_related
from storage.read.rollouts import read_rollouts
from storage.read.runs import read_runs
from storage.read.tokens import read_tokens
from tests.support import stored_runs
from tests.support.api_client import Api
from tests.support.databases.matrix import new_database


def of_prompt(number, step, kind="train", sample=0, **changes):
    """A rollout of prompt `number`; its completion is that of its step, or of `seed`."""
    seed = changes.pop("seed", step * 10 + sample)
    return stored_runs.rollout(
        step,
        number,
        sample,
        kind=kind,
        prompt_ids=np.array([1, 2, 3 + number]),
        completion=f"said {seed}",
        record=stored_runs.record(seed=seed, tokens=12),
        **changes,
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    made = new_database(tmp_path_factory.mktemp("data"))
    for name in ("older", "newer", "other prompts"):
        run_id, writer = stored_runs.started(made, slot=name, name=name)
        apart = 100 if name == "other prompts" else 0
        for step in (0, 2, 4):
            probes = [of_prompt(n + apart, step, "probe", seed=1000 + n) for n in range(3)]
            fresh = [of_prompt(n + apart, step, "eval", sample=s) for n in range(3) for s in (0, 1)]
            if step:
                trained = [of_prompt(n + apart, step, sample=s) for n in (1, 5) for s in (0, 1)]
                event = StepEvent(step, {}, 10, 1.0, {}, trained)
                writer.step(event, stored_runs.texts)
            writer.evaluation(EvaluationEvent(step, [], probes + fresh), stored_runs.texts)
        jobs.finish(made, run_id, 1, "finished")
        time.sleep(0.01)
    yield made
    made.dispose()


def every_row(engine):
    """All rollouts with prompt ids and completion ids, read one by one."""
    with read(engine) as connection:
        rows = connection.execute(
            text(
                "SELECT r.id, r.run_id, r.step, r.kind, r.sample, p.ids, p.text, run.created_at "
                "FROM rollout r JOIN prompt p ON p.id = r.prompt_id JOIN run ON run.id = r.run_id"
            )
        ).all()
    every = []
    for row in rows:
        ids = read_tokens(engine, row.id, ("completion_ids",)).columns["completion_ids"]
        every.append((row, ids.tolist()))
    return every


def run_of(engine, name):
    return read_runs(engine, search=name)["items"][0]["id"]


def one(engine, run, **filters):
    items = read_rollouts(engine, run_of(engine, run), limit=1000)["items"]
    return next(i for i in items if all(i[k] == v for k, v in filters.items()))


@pytest.mark.parametrize("kind", ["probe", "eval", "train"])
def test_related_rollouts_are_those_with_the_same_prompt_ids(engine, kind):
    chosen = one(engine, "newer", kind=kind, group=1, step=4, sample=0)
    everything = every_row(engine)
    row, ids = next((row, ids) for row, ids in everything if row.id == chosen["id"])
    same = [(r, i) for r, i in everything if r.ids == row.ids and r.id != row.id]
    related = read_related(engine, chosen["id"])
    here = [(r, i) for r, i in same if r.run_id == row.run_id]
    there = [(r, i) for r, i in same if r.run_id != row.run_id]
    assert related["total"] == len(here) == len(related["items"]) == 12
    assert related["others"]["total"] == len(there) == 13
    assert {r.run_id for r, _ in there} == {run_of(engine, "older")}
    expected = {r.id: i == ids for r, i in same}
    listed = [*related["items"], *related["others"]["items"]]
    assert {item["id"]: item["same_completion"] for item in listed} == expected
    assert sum(expected.values()) == {"probe": 5, "eval": 3, "train": 3}[kind]
    assert [i["step"] for i in related["items"]] == sorted(i["step"] for i in related["items"])
    assert {i["run_name"] for i in related["others"]["items"]} == {"older"}


def test_each_item_has_its_sums(engine):
    chosen = one(engine, "newer", kind="probe", group=2, step=0)
    for item in read_related(engine, chosen["id"])["items"]:
        kl = read_tokens(engine, item["id"]).columns["reverse_kl"]
        assert item["kl_sum"] == pytest.approx(float(kl.sum()), rel=1e-5)
        assert item["kl_mean"] == pytest.approx(float(kl.mean()), rel=1e-5)
        assert item["tokens"] == len(kl)


def test_probes_come_first_into_a_short_list(engine):
    chosen = one(engine, "newer", kind="eval", group=1, step=4, sample=0)
    related = read_related(engine, chosen["id"], limit=3)
    assert [(i["kind"], i["step"]) for i in related["items"]] == [("probe", s) for s in (0, 2, 4)]
    assert related["total"] == 12
    assert (len(related["others"]["items"]), related["others"]["total"]) == (3, 13)


def test_the_nearest_steps_come_first_where_asked(engine, tmp_path):
    chosen = one(engine, "newer", kind="eval", group=1, step=2, sample=0)
    related = Api(engine, tmp_path).get(f"/rollouts/{chosen['id']}/related", near=True, limit=60)
    steps = [abs(item["step"] - 2) for item in related["items"]]
    assert steps == sorted(steps) and steps.count(0) == 4
    assert related["total"] == 12 and "others" not in related


def test_deleted_runs_are_left_out(engine):
    chosen = one(engine, "newer", kind="eval", group=1, step=4, sample=0)
    run_details.delete_run(engine, run_of(engine, "older"))
    assert read_related(engine, chosen["id"])["others"] == {"items": [], "total": 0}
    with pytest.raises(UserError) as refusal:
        read_related(engine, "roll-none")
    assert refusal.value.kind == "not found"


def test_equal_ids_have_equal_bytes():
    """What the comparison in the database rests on."""
    ids = np.arange(300)
    record = replace(stored_runs.record(tokens=300), completion_ids=ids)
    packed = packing.pack(record)["completion_ids"]
    again = packing.pack(
        replace(stored_runs.record(300, seed=1), completion_ids=ids.astype(np.int32))
    )
    assert packed == again["completion_ids"]
    other = packing.pack(replace(record, completion_ids=ids[::-1]))
    assert packed != other["completion_ids"]


def test_the_route(engine, tmp_path):
    api = Api(engine, tmp_path)
    chosen = one(engine, "newer", kind="probe", group=0, step=2)["id"]
    assert api.get(f"/rollouts/{chosen}/related") == read_related(engine, chosen)
    assert len(api.get(f"/rollouts/{chosen}/related", limit=1)["items"]) == 1
    for path, status in (
        (f"/rollouts/{chosen}/related?limit=0", 422),
        (f"/rollouts/{chosen}/related?limit=1001", 422),
        ("/rollouts/roll-none/related", 404),
        ("/rollouts/ROLL/related", 422),
    ):
        assert api("GET", path).status_code == status, path
