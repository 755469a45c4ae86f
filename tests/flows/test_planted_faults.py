"""Faults planted in runs that are really trained: the right card comes first, a healthy run has
none."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from storage.diagnosis.diagnose import diagnose
from storage.engine import open_database
from storage.read.rollouts import read_rollout
from tests.opd.doctor.test_dynamic import bundled_with
from tests.support import runs_with_fault
from tests.support.runs_with_fault import EOS, UNK, altered, ids_of, swapped


@dataclass
class Place:
    engine: Engine
    folder: Path

    def diagnosed(self, name: str, **changes: Any) -> dict[str, Any]:
        run_id = runs_with_fault.train(
            self.engine, self.folder / f"run-{name}", name=name, **changes
        )
        return diagnose(self.engine, run_id)

    def teacher(self, name: str, change: Callable[[runs_with_fault.Table], None]) -> str:
        return altered(self.folder / name, "teacher", change)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("planted")
    engine = open_database(folder / "data")
    yield Place(engine, folder)
    engine.dispose()


@pytest.fixture(scope="module")
def healthy(place: Place) -> dict[str, Any]:
    """The diagnosis of a run without a fault, which also stores the texts of the tokens."""
    return place.diagnosed("healthy", steps=12)


def codes(found: dict[str, Any]) -> list[str]:
    return [card["code"] for card in found["items"]]


def evidence(found: dict[str, Any], code: str) -> dict[str, float]:
    card = next(c for c in found["items"] if c["code"] == code)
    return {e["label"]: e["value"] for e in card["evidence"]}


def test_a_healthy_run_has_no_card(healthy: dict[str, Any]) -> None:
    assert codes(healthy) == []
    judged = {s["code"] for s in healthy["silent"] if s["judged"]}
    assert len(judged) == 8, "all but the one that needs long answers"
    assert healthy["looked_at"]["steps"] == 12 and healthy["looked_at"]["rollouts"] == 12 * 16


@pytest.mark.parametrize("objective", ["policy_gradient", "jsd"])
def test_other_objectives_have_none_either(place: Place, objective: str) -> None:
    assert codes(place.diagnosed(objective, objective={"name": objective})) == []


def test_a_baseline_without_a_teacher_is_not_judged_by_it(place: Place) -> None:
    found = place.diagnosed("grpo", teacher={"kind": "none"}, objective={"name": "grpo"})
    assert codes(found) == []
    why = {s["code"]: s["why"] for s in found["silent"]}
    assert "no teacher" in why["template-mismatch"] and "no teacher" in why["stop-mismatch"]


def test_a_teacher_with_another_end(place: Place) -> None:
    teacher = place.teacher("other-eos", swapped((EOS, UNK)))
    found = place.diagnosed("eos", teacher=teacher)
    assert codes(found) == ["stop-mismatch"]
    card = found["items"][0]
    assert "<eos>" in card["text"] and "<unk>" in card["text"] and "<unk>" in card["advice"]
    seen = evidence(found, "stop-mismatch")
    assert seen["teacher's p(end) at the student's ends"] < 1e-4
    assert seen["ends where it prefers another"] > 0.95
    for link in card["rollouts"]:
        assert link["position"] == read_rollout(place.engine, link["id"])["tokens"] - 1


@pytest.mark.usefixtures("healthy")  # its own answers never have the <eos> that the card names
def test_a_student_that_writes_on_after_the_teachers_end(place: Place) -> None:
    student = bundled_with(place.folder / "no-end", "student", eos=UNK)
    found = place.diagnosed("no end", student=student, steps=8)
    assert codes(found)[0] == "stop-mismatch"
    assert set(codes(found)) <= {"stop-mismatch", "length-drift", "endorsed-repetition"}
    card = found["items"][0]
    assert "continues" in card["title"] and "sampling.stop_ids" in card["advice"]
    assert "<eos>" in card["advice"]


def test_a_repeating_student_that_is_its_own_teacher(place: Place) -> None:
    student = runs_with_fault.repeating_student(place.folder / "loops")
    found = place.diagnosed("loops", student=student, teacher={"kind": "self"})
    assert codes(found) == ["endorsed-repetition"]
    assert evidence(found, "endorsed-repetition")["teacher's p of the repeated tokens"] > 0.8
    taught = place.diagnosed("taught", student=student)
    assert "endorsed-repetition" not in codes(taught), "this teacher does not, and it is unlearnt"


def test_a_teacher_of_another_task(place: Place) -> None:
    """The teacher knows the same words, each under another's id."""

    def shuffle(table: runs_with_fault.Table) -> None:
        words = list(range(3, len(table)))
        table[words] = table[words[7:] + words[:7]].clone()

    found = place.diagnosed("task", teacher=place.teacher("shuffled", shuffle))
    assert codes(found)[0] == "overlap-flat"
    assert set(codes(found)) <= {"overlap-flat", "off-support", "length-drift"}
    assert evidence(found, "overlap-flat")["KL, last steps"] > 3


def test_a_teacher_of_another_arithmetic(place: Place) -> None:
    """It writes as the student does, but with digits that mean other numbers."""

    def renamed(table: runs_with_fault.Table) -> None:
        for lead in ("", " "):
            rows = ids_of([f"{lead}{digit}" for digit in range(10)])
            table[rows] = table[rows[3:] + rows[:3]].clone()

    found = place.diagnosed("digits", teacher=place.teacher("digits", renamed))
    assert codes(found)[0] == "overlap-flat"
    assert set(codes(found)) <= {"overlap-flat", "off-support"}


def test_a_template_mismatch(place: Place) -> None:
    """The teacher opens its answers with another token than the student's <think>."""
    opening, newline = ids_of(["<think>", "\n"])
    found = place.diagnosed("format", teacher=place.teacher("format", swapped((opening, newline))))
    assert codes(found)[0] == "template-mismatch"
    assert set(codes(found)) <= {"template-mismatch", "off-support"}
    assert evidence(found, "template-mismatch")["KL at the first token"] > 5
    assert {link["position"] for link in found["items"][0]["rollouts"]} == {0}


def test_a_limit_that_cuts_the_answers(place: Place) -> None:
    found = place.diagnosed("cut", sampling={"max_new_tokens": 12})
    assert codes(found) == ["length-drift"]
    assert "12 tokens" in found["items"][0]["text"]
