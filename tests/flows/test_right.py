"""Every rollout in JSON says whether it is right: lists, one rollout, what lies beside it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from opd.types import StepEvent
from storage.write.branches import branch_id, store_rollouts
from tests.support import stored_runs
from tests.support.api_client import Api

RIGHT = {1.0: True, 0.7: True, 0.5: False, 0.0: False, None: None}


@pytest.fixture
def run_id(engine: Engine) -> str:
    run_id, writer = stored_runs.started(engine)
    rollouts = [
        stored_runs.rollout(1, sample=sample, reward=reward) for sample, reward in enumerate(RIGHT)
    ]
    writer.step(StepEvent(1, {}, 1, 0.0, {"reverse_kl": 1.0}, rollouts), stored_runs.texts)
    return run_id


def graded(node: Any) -> Iterator[dict[str, Any]]:
    """Every object with a reward, at any depth."""
    children = node if isinstance(node, list) else []
    if isinstance(node, dict):
        children = list(node.values())
        if "reward" in node:
            yield node
    for child in children:
        yield from graded(child)


def grades(answer: Any) -> list[bool | None]:
    rollouts = list(graded(answer))
    assert all(rollout["right"] is RIGHT[rollout["reward"]] for rollout in rollouts)
    return [rollout["right"] for rollout in rollouts]


def test_lists_and_what_lies_beside_a_rollout(api: Api, engine: Engine, run_id: str) -> None:
    items = api.get(f"/runs/{run_id}/rollouts", sort="reward")["items"]
    assert [item["right"] for item in items] == [False, False, True, True, None]
    first = items[0]["id"]
    assert grades(api.get(f"/rollouts/{first}")) == [False]
    assert len(grades(api.get(f"/rollouts/{first}/related"))) == len(items) - 1
    correctness = api.get(f"/runs/{run_id}/insights/correctness")
    assert len(grades(correctness)) == 4, "two right ones and two wrong ones"
    assert len(grades(api.get("/compare/prompts", runs=run_id))) == 1

    branch = replace(stored_runs.rollout(1, reward=0.7), kind="branch")
    name = branch_id(first, 2, branch, {})
    store_rollouts(engine, run_id, {name: branch}, "words", stored_runs.texts)
    assert grades(api.get(f"/rollouts/{first}/branches")) == [True]


@pytest.mark.parametrize("filters", [{}, {"min_position": 1}])
def test_the_worst_tokens(api: Api, run_id: str, filters: dict[str, int]) -> None:
    """From the index, and from the records themselves."""
    rights = {r["id"]: r["right"] for r in api.get(f"/runs/{run_id}/rollouts")["items"]}
    tokens = api.get(f"/runs/{run_id}/hot-tokens", limit=100, **filters)["items"]
    assert {token["rollout_id"] for token in tokens} == set(rights)
    assert all(token["right"] is rights[token["rollout_id"]] for token in tokens)


def test_the_filter_agrees(api: Api, run_id: str) -> None:
    for correct in (True, False):
        items = api.get(f"/runs/{run_id}/rollouts", correct=correct)["items"]
        assert len(items) == 2 and all(item["right"] is correct for item in items)
