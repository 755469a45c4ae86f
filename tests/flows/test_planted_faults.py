"""Faults planted in runs that are really trained: the right card comes first, a healthy run has
none."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from storage.diagnosis.diagnose import diagnose
from storage.read.export import export_rows
from storage.read.rollouts import read_rollout
from tests.opd.doctor.test_dynamic import bundled_with
from tests.support import runs_with_fault
from tests.support.databases.matrix import new_database
from tests.support.runs_with_fault import EOS, UNK, altered, ids_of, swapped

pytestmark = pytest.mark.device


@dataclass
class PlantedRuns:
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
def planted_runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantedRuns]:
    folder = tmp_path_factory.mktemp("planted")
    engine = new_database(folder / "data")
    yield PlantedRuns(engine, folder)
    engine.dispose()


@pytest.fixture(scope="module")
def healthy(planted_runs: PlantedRuns) -> dict[str, Any]:
    """The diagnosis of a run without a fault, which also stores the texts of the tokens."""
    return planted_runs.diagnosed("healthy", steps=12)


def codes(diagnosis: dict[str, Any]) -> list[str]:
    return [card["code"] for card in diagnosis["items"]]


def evidence(diagnosis: dict[str, Any], code: str) -> dict[str, float]:
    card = next(c for c in diagnosis["items"] if c["code"] == code)
    return {e["label"]: e["value"] for e in card["evidence"]}


def test_a_healthy_run_has_no_card(healthy: dict[str, Any]) -> None:
    assert codes(healthy) == []
    judged = {s["code"] for s in healthy["silent"] if s["judged"]}
    assert len(judged) == 8, "all but the one that needs long answers"
    assert healthy["looked_at"]["steps"] == 12 and healthy["looked_at"]["rollouts"] == 12 * 16


@pytest.mark.parametrize("objective", ["policy_gradient", "jsd"])
def test_other_objectives_have_none_either(planted_runs: PlantedRuns, objective: str) -> None:
    assert codes(planted_runs.diagnosed(objective, objective={"name": objective})) == []


def test_a_baseline_without_a_teacher_is_not_judged_by_it(planted_runs: PlantedRuns) -> None:
    diagnosis = planted_runs.diagnosed("grpo", teacher={"kind": "none"}, objective={"name": "grpo"})
    assert codes(diagnosis) == []
    why = {s["code"]: s["why"] for s in diagnosis["silent"]}
    assert "no teacher" in why["template-mismatch"] and "no teacher" in why["stop-mismatch"]


def test_a_teacher_with_another_end(planted_runs: PlantedRuns) -> None:
    teacher = planted_runs.teacher("other-eos", swapped((EOS, UNK)))
    diagnosis = planted_runs.diagnosed("eos", teacher=teacher)
    assert codes(diagnosis) == ["stop-mismatch"]
    card = diagnosis["items"][0]
    assert "<eos>" in card["text"] and "<unk>" in card["text"] and "<unk>" in card["advice"]
    seen = evidence(diagnosis, "stop-mismatch")
    assert seen["teacher's p(end) at the student's ends"] < 1e-4
    assert seen["ends where it prefers another"] > 0.95
    for link in card["rollouts"]:
        assert link["position"] == read_rollout(planted_runs.engine, link["id"])["tokens"] - 1


def test_an_end_token_teaches_to_stop_where_the_plain_run_unlearns_it(
    planted_runs: PlantedRuns,
) -> None:
    """As a base student and a chat teacher, whose end the student never writes."""
    teacher = planted_runs.teacher("chat-end", swapped((EOS, UNK)))
    settings: dict[str, Any] = {
        "steps": 6,
        "prompts": {"problem_steps": 1},
        "sampling": {"prompts_per_step": 4, "group_size": 4, "max_new_tokens": 40},
        "optimizer": {"learning_rate": 3e-3},
        "evaluation": {"prompts": 1, "every": 0, "keep": 0, "temperatures": [1.0]},
    }
    truncated, ends = {}, {}
    for name, token in (("plain", None), ("mapped", "<unk>")):
        run_id = runs_with_fault.train(
            planted_runs.engine,
            planted_runs.folder / name,
            teacher={"model": teacher, "end_token": token},
            **settings,
        )
        items = export_rows(planted_runs.engine, run_id)
        rows = [row for row in items if row["kind"] == "train"]
        truncated[name] = [
            np.mean([r["finish_reason"] == "length" for r in rows if r["step"] == step])
            for step in range(1, 7)
        ]
        ends[name] = {row.get("teacher_end") for row in rows}
        finished = [r for r in rows if r["finish_reason"] == "stop"]
        assert {r["completion_token_ids"][-1] for r in finished} == {EOS}
    assert max(truncated["plain"]) == 1 and np.mean(truncated["plain"][2:]) > 0.8
    assert truncated["mapped"][-1] < 0.2
    assert ends == {"plain": {None}, "mapped": {"<unk>"}}


@pytest.mark.usefixtures("healthy")  # its own answers never have the <eos> that the card names
def test_a_student_that_writes_on_after_the_teachers_end(planted_runs: PlantedRuns) -> None:
    student = bundled_with(planted_runs.folder / "no-end", "student", eos=UNK)
    diagnosis = planted_runs.diagnosed("no end", student=student, steps=8)
    assert codes(diagnosis)[0] == "stop-mismatch"
    assert set(codes(diagnosis)) <= {"stop-mismatch", "length-drift", "endorsed-repetition"}
    card = diagnosis["items"][0]
    assert "continues" in card["title"] and "sampling.stop_ids" in card["advice"]
    assert "<eos>" in card["advice"]


def test_a_repeating_student_that_is_its_own_teacher(planted_runs: PlantedRuns) -> None:
    student = runs_with_fault.repeating_student(planted_runs.folder / "loops")
    diagnosis = planted_runs.diagnosed("loops", student=student, teacher={"kind": "self"})
    assert codes(diagnosis) == ["endorsed-repetition"]
    assert evidence(diagnosis, "endorsed-repetition")["teacher's p of the repeated tokens"] > 0.8
    taught = planted_runs.diagnosed("taught", student=student)
    assert "endorsed-repetition" not in codes(taught), "this teacher does not, and it is unlearnt"


def test_a_teacher_of_another_task(planted_runs: PlantedRuns) -> None:
    """The teacher knows the same words, each under another's id."""

    def shuffle(table: runs_with_fault.Table) -> None:
        words = list(range(3, len(table)))
        table[words] = table[words[7:] + words[:7]].clone()

    diagnosis = planted_runs.diagnosed("task", teacher=planted_runs.teacher("shuffled", shuffle))
    assert codes(diagnosis)[0] == "overlap-flat"
    assert set(codes(diagnosis)) <= {"overlap-flat", "off-support", "length-drift"}
    assert evidence(diagnosis, "overlap-flat")["KL, last steps"] > 3


def test_a_teacher_of_another_arithmetic(planted_runs: PlantedRuns) -> None:
    """It writes as the student does, but with digits that mean other numbers."""

    def renamed(table: runs_with_fault.Table) -> None:
        for lead in ("", " "):
            rows = ids_of([f"{lead}{digit}" for digit in range(10)])
            table[rows] = table[rows[3:] + rows[:3]].clone()

    diagnosis = planted_runs.diagnosed("digits", teacher=planted_runs.teacher("digits", renamed))
    assert codes(diagnosis)[0] == "overlap-flat"
    assert set(codes(diagnosis)) <= {"overlap-flat", "off-support"}


def test_a_template_mismatch(planted_runs: PlantedRuns) -> None:
    """The teacher opens its answers with another token than the student's <think>."""
    opening, newline = ids_of(["<think>", "\n"])
    diagnosis = planted_runs.diagnosed(
        "format", teacher=planted_runs.teacher("format", swapped((opening, newline)))
    )
    assert codes(diagnosis)[0] == "template-mismatch"
    assert set(codes(diagnosis)) <= {"template-mismatch", "off-support"}
    assert evidence(diagnosis, "template-mismatch")["KL at the first token"] > 5
    assert {link["position"] for link in diagnosis["items"][0]["rollouts"]} == {0}


def test_a_limit_that_cuts_the_answers(planted_runs: PlantedRuns) -> None:
    diagnosis = planted_runs.diagnosed("cut", sampling={"max_new_tokens": 12})
    assert codes(diagnosis) == ["length-drift"]
    assert "12 tokens" in diagnosis["items"][0]["text"]
