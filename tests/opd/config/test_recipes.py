"""The recipes: each is valid, says what it takes, passes the doctor, and the bundled ones learn."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from opd.config.recipes import Recipe, recipe, recipes
from opd.config.run import check_inputs, parse
from opd.doctor.examine import static
from opd.doctor.findings import Finding, healthy
from opd.doctor.memory import estimate
from opd.training.trainer import Training
from opd.types import EvaluationEvent
from tests.support.gguf_files import needs_smollm

SMOLLM = ("smollm-handbook",)
ALL = [
    pytest.param(r, id=r.name, marks=[needs_smollm] if r.name in SMOLLM else []) for r in recipes()
]
BUNDLED = [p for p in ALL if p.values[0].name.startswith("demo-")]
STATED = re.compile(r"[Tt]akes about ([\d.]+) GB of")


@pytest.mark.parametrize("bundled", ALL)
def test_it_is_valid_and_described(bundled: Recipe) -> None:
    config = check_inputs(parse(bundled.config))
    assert config.name == bundled.name
    assert 5 < len(bundled.title) < 70 and not bundled.title.endswith(".")
    assert bundled.description.endswith(".")


@pytest.mark.parametrize("bundled", [p for p in ALL if p.values[0].name != "demo"])
def test_it_says_how_much_memory_it_takes(bundled: Recipe) -> None:
    stated = STATED.search(bundled.description)
    assert stated is not None, "Takes about N GB of memory"
    memory = estimate(parse(bundled.config))
    assert memory.unknown == []
    assert float(stated[1]) == round(memory.device / 1e9, 1)


def test_the_one_for_24_gb_leaves_room() -> None:
    memory = estimate(parse(recipe("qwen3-8b-coach-24gb").config))
    assert memory.device * 1.15 < 24e9


@pytest.mark.parametrize("bundled", ALL)
def test_the_doctor_finds_nothing_wrong_without_a_network(
    bundled: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the static part used the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    findings = list(static(parse(bundled.config), lambda _: None))
    assert healthy(findings)
    assert [f.code for f in findings if f.severity == "warning" and not _of_machine(f)] == []


def _of_machine(finding: Finding) -> bool:
    return finding.code.startswith("memory")


@pytest.mark.parametrize("bundled", BUNDLED)
def test_a_bundled_one_learns(bundled: Recipe, tmp_path: Path) -> None:
    """The first steps of it, with fewer prompts to evaluate."""
    changes = {"steps": 6, "evaluation": {"prompts": 64, "temperatures": [1.0]}}
    config = parse({**bundled.config, **changes, "threads": 1})
    scores = [
        event.scores[0].value
        for event in Training(config, tmp_path).events()
        if isinstance(event, EvaluationEvent) and event.scores
    ]
    assert scores[-1] > scores[0] + 0.1
