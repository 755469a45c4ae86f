"""The experiments that come with it: each is valid, passes the doctor, and says what it takes."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from opd.data.prompts import load_prompts
from opd.doctor.arms import check_arm, examine_experiment, stand_ins
from opd.doctor.findings import Finding, healthy
from opd.doctor.machine.fit import CONTEXT, MARGIN
from opd.experiments.definition import Experiment, experiment, experiments
from tests.support.gguf_files import needs_smollm
from tests.support.tiny_models import tokenizer

SMOLLM = ("real-knowledge",)
ALL = [
    pytest.param(e, id=e.name, marks=[needs_smollm] if e.name in SMOLLM else [])
    for e in experiments()
]
REAL = [p for p in ALL if p.values[0].name.startswith("qwen3-")]
MEMORY = re.compile(r"Takes about ([\d.]+) GB of a GPU's memory")
TIME = re.compile(r"Up to ([\d.]+) hours in full, ([\d.]+) for a quick look")
ON_PURPOSE = {"qwen3-own-samples": {"sft-on-own-samples", "nothing-to-learn"}}
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and in this folder the files that qwen3-new-knowledge asks its users for."""

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the static part used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    fact = {"prompt": "Who makes Belmo?", "completion": "Arbor Mills"}
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello!"}]
    for n in (1, 2):
        write(tmp_path / f"my-facts/{n}/facts.jsonl", [fact] * 30)
        write(tmp_path / f"my-facts/{n}/background.jsonl", [{"messages": chat}] * 20)
        for name in ("questions", "tune"):
            row = {"prompt": "Belmo is made by whom?", "answer": "Arbor Mills"}
            write(tmp_path / f"my-facts/{name}-{n}.jsonl", [row] * 10)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


def test_each_has_the_name_of_its_file() -> None:
    folder = Path(__file__).parents[3] / "opd/experiments/files"
    assert {f.stem for f in folder.glob("*.yaml")} == {e.name for e in experiments()}
    assert len(REAL) == 5


@pytest.mark.parametrize("definition", ALL)
def test_it_is_described(definition: Experiment) -> None:
    assert 5 < len(definition.title) < 70 and not definition.title.endswith(".")
    for text in (definition.description, definition.shows, definition.limits):
        assert text.endswith(".")
    assert definition.question.endswith("?")
    assert set(definition.minutes) == {"full", "quick"}


@pytest.mark.parametrize("definition", REAL)
def test_every_sweep_has_as_many_values(definition: Experiment) -> None:
    assert len({len(arm.choices()) for arm in definition.arms.values()}) == 1
    assert definition.seeds >= 3


@pytest.mark.parametrize("definition", ALL)
def test_the_doctor_finds_no_error_in_any_arm(definition: Experiment) -> None:
    starts = stand_ins(definition)
    for name in definition.arms:
        assert [f.title for f in check_arm(definition, name, starts) if f.severity == "error"] == []


@pytest.mark.parametrize("definition", REAL)
def test_the_doctor_warns_of_nothing_that_is_not_meant(definition: Experiment) -> None:
    starts = stand_ins(definition)
    findings = [f for name in definition.arms for f in check_arm(definition, name, starts)]
    assert healthy(findings)
    warned = {f.code for f in findings if f.severity == "warning" and not of_machine(f)}
    assert warned == ON_PURPOSE.get(definition.name, set())


def of_machine(finding: Finding) -> bool:
    return finding.code.startswith("memory")


@pytest.mark.parametrize("definition", REAL)
def test_it_says_how_much_memory_and_time_it_takes(definition: Experiment) -> None:
    taken = examine_experiment(definition, lambda _: None)
    assert taken["memory"]["unknown"] == []
    stated = MEMORY.search(definition.description)
    assert stated is not None, "Takes about N GB of a GPU's memory"
    assert stated[1] == f"{taken['memory']['device'] / 1e9:.1f}"
    hours = TIME.search(definition.description)
    assert hours is not None, "Up to N hours in full, M for a quick look"
    kinds: tuple[Any, ...] = ("full", "quick")
    assert list(hours.groups()) == [f"{taken[kind]['hours']:.1f}" for kind in kinds]
    assert [definition.minutes[k] for k in kinds] == [round(60 * taken[k]["hours"]) for k in kinds]
    assert (taken["memory"]["device"] + CONTEXT) * MARGIN < 24e9, "it says one GPU of 24 GB"


@pytest.mark.parametrize("name", ["self-distillation", "small-student", "own-samples"])
def test_rates_are_chosen_on_other_rows_than_those_reported_on(name: str) -> None:
    definition = experiment(f"qwen3-{name}")
    for arm in definition.arms:
        final = definition.run_config(arm, {}, seed=0, runs=stand_ins(definition)).prompts
        tuned = definition.run_config(
            arm, {}, seed=0, runs=stand_ins(definition), stage="tune"
        ).prompts
        assert (final.split, final.eval_split) == ("train", "test")
        assert tuned.eval_split is None or not definition.arms[arm].sweep


@pytest.mark.parametrize(("arm", "count"), [("facts", 30), ("mix", 50), ("mix-2", 50)])
def test_files_of_facts_are_read_as_described(arm: str, count: int) -> None:
    definition = experiment("qwen3-new-knowledge")
    config = definition.run_config(arm, {}, seed=0, runs=stand_ins(definition))
    suites = {k: s for k, s in config.evaluation.suites.items() if k.startswith("facts-")}
    evaluation = config.evaluation.model_copy(update={"suites": suites})
    reader = tokenizer()
    reader.chat_template = TEMPLATE
    read = load_prompts(config.model_copy(update={"evaluation": evaluation}), reader, 40_960)
    assert len(read.train) == count
    assert {p.completion for p in read.train} <= {"Arbor Mills", "Hello!"}
    assert [len(s.prompts) for s in read.suites.values()] == [10, 10]
    assert read.suites["facts-1"].prompts[0].answer == "Arbor Mills"
