"""Which run comes next, acted out without any run."""

from opd.experiments.plan import TUNING_SEED, ArmRun, Key, Plan, Planner
from tests.support.experiment_definition import data, definition

World = dict[Key, ArmRun]


def plan(world: World, *, quick: bool = False, seeds: int = 2, **changes: object) -> Plan:
    return Planner(definition(**changes), quick, seeds, world).plan()


def acted(
    criteria: dict[tuple[str, int], float | None], **options: object
) -> tuple[World, list[str]]:
    """Every wanted run finishes (fails where its criterion is None) until nothing is wanted."""
    world: World = {}
    order = []
    while planned := plan(world, **options).next_run:  # type: ignore[arg-type]
        key, config = planned.key, planned.config
        value = criteria.get((key.arm, key.choice)) if key.stage == "tune" else 0.5
        status = "failed" if value is None else "finished"
        world[key] = ArmRun(f"run-{len(world)}", status, value if key.stage == "tune" else None)
        order.append(f"{key} {config.teacher.model if key.arm == 'opd' else ''}".strip())
    return world, order


def test_arms_are_tuned_in_turn_and_taught_by_the_best_of_the_one_before() -> None:
    world, order = acted({("rl", 0): 0.3, ("rl", 1): 0.4, ("opd", 0): 0.9, ("opd", 1): 0.8})
    assert order == [
        "tune/rl/0/1000",
        "tune/rl/1/1000",
        "tune/opd/0/1000 run-1",  # the better choice of RL teaches
        "tune/opd/1/1000 run-1",
        "final/rl/0/0",
        "final/opd/0/0 run-4",  # each seed's own run
        "final/rl/0/1",
        "final/opd/0/1 run-6",
    ]
    done = plan(world)
    assert done.done and done.ended == len(done.keys) == 8
    assert done.chosen == {"rl": 1, "opd": 0}
    first = plan({k: v for k, v in world.items() if k.stage == "tune"}).next_run
    assert first is not None and first.config.optimizer.learning_rate == 0.002  # the chosen rate


def test_what_counts_is_run_on_other_problems_than_what_was_chosen_on() -> None:
    tuned = plan({}).next_run
    assert tuned is not None and tuned.config.prompts.problem_seed == 1
    world, _ = acted({("rl", 0): 0.3, ("rl", 1): 0.4, ("opd", 0): 0.9, ("opd", 1): 0.8})
    final = plan({k: v for k, v in world.items() if k.stage == "tune"}).next_run
    assert final is not None and final.config.prompts.problem_seed == 0


def test_an_arm_waits_for_the_run_that_it_refers_to() -> None:
    """Another seed's run that can be made goes before one whose teacher is still learning."""
    rl = ArmRun("run-1", "running")
    made = plan({Key("final", "rl", 0, 0): rl}, quick=True).next_run
    assert made is not None and str(made.key) == "final/rl/0/1"


def test_a_quick_look_takes_the_stored_values_and_tunes_nothing() -> None:
    world, order = acted({}, quick=True)
    assert order == ["final/rl/0/0", "final/opd/0/0 run-0", "final/rl/0/1", "final/opd/0/1 run-2"]
    assert plan(world, quick=True).chosen == {"rl": 1, "opd": 0}


def test_a_choice_that_broke_loses_and_is_no_problem() -> None:
    world, _ = acted({("rl", 0): 0.1, ("rl", 1): None, ("opd", 0): 0.9, ("opd", 1): 0.8})
    assert plan(world).chosen == {"rl": 0, "opd": 0}
    assert plan(world).done


def test_where_every_choice_broke_it_has_failed() -> None:
    world, _ = acted({})
    assert plan(world).problem == ("failed", "every choice of RL failed")


def test_where_no_choice_could_be_judged_it_has_failed() -> None:
    world = {
        Key("tune", "rl", c, TUNING_SEED): ArmRun(f"run-{c}", "finished", None) for c in range(2)
    }
    assert plan(world).problem == ("failed", "no choice of RL could be scored by heldout/pass@1")
    under_way = {**world, Key("tune", "rl", 1, TUNING_SEED): ArmRun("run-1", "running", None)}
    assert plan(under_way).problem is None


def test_runs_that_did_not_end_by_themselves_stop_it() -> None:
    first = Key("tune", "rl", 0, TUNING_SEED)
    for status in ("cancelled", "interrupted"):
        stopped = plan({first: ArmRun("run-x", status)})
        assert stopped.problem == ("stopped", f"run-x was {status}") and not stopped.next_run
    gone = plan({first: ArmRun("run-x", "finished", 0.5, deleted=True)})
    assert gone.problem is not None and "restore it" in gone.problem[1]
    failed = plan({Key("final", "opd", 0, 1): ArmRun("run-x", "failed")})
    assert failed.problem == ("failed", "run-x (OPD) failed")


def test_an_arm_without_a_sweep_is_tuned_where_it_teaches_one_that_has() -> None:
    arms = data()["arms"]
    arms["rl"] |= {"sweep": {}, "best": {}}
    keys = [str(k) for k in plan({}, arms=arms).keys]
    assert keys[:3] == ["tune/rl/0/1000", "tune/opd/0/1000", "tune/opd/1/1000"]
    arms["opd"]["config"] = {}
    keys = [str(k) for k in plan({}, arms=arms).keys]
    assert keys[0] == "tune/opd/0/1000"


def test_a_choice_is_the_best_mean_over_the_tuning_seeds() -> None:
    changes = {"tuning": {"seeds": 2}}
    means = {(0, 0): 0.9, (0, 1): 0.1, (1, 0): 0.6, (1, 1): 0.6}
    world = {
        Key("tune", "rl", c, TUNING_SEED + s): ArmRun(f"run-{c}{s}", "finished", v)
        for (c, s), v in means.items()
    }
    assert plan(world, **changes).chosen == {"rl": 1}
    del world[Key("tune", "rl", 1, TUNING_SEED)]
    assert plan(world, **changes).chosen == {}
