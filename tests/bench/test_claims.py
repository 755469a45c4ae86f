"""docs/claims.md is what the result files say, and these are of whole experiments."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from bench import claims, drivers
from opd.experiments.definition import experiment, with_settings
from tests.support.experiment_definition import definition

RESULTS = sorted((claims.DOCS / "results").glob("*.json"))


def read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def test_the_page_is_written_from_the_result_files() -> None:
    assert (claims.DOCS / "claims.md").read_text(encoding="utf-8") == claims.text()


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_a_result_is_of_a_whole_experiment_as_it_is_defined_now(path: Path) -> None:
    result = read(path)
    definition = experiment(path.stem)
    assert (result["name"], result["status"], result["quick"]) == (path.stem, "finished", False)
    assert result["fingerprint"] == definition.fingerprint
    assert result["seeds"] == definition.seeds >= (2 if path.stem == "real-knowledge" else 5)
    for arm in result["arms"]:
        defined = definition.arms[arm["name"]]
        assert arm["n"] == len(arm["runs"]) == definition.seeds
        assert arm["chosen"] == defined.best  # a quick look takes what the tuning chose
        if defined.sweep:
            assert [c["choice"] for c in arm["choices"]] == defined.choices()
            best = max(arm["choices"], key=lambda c: c["criterion"] or 0)
            assert best["choice"] == arm["chosen"]


@pytest.mark.parametrize("name", drivers.STUDY)
def test_a_row_of_the_study_is_of_the_experiment_with_its_settings(name: str) -> None:
    result = read(drivers.FOLDER / f"{name}.json")
    row = drivers.STUDY[name]
    changed = with_settings(experiment("self-distillation"), list(row.settings))
    assert result["fingerprint"] == drivers.studied(changed).fingerprint
    assert (result["status"], result["quick"], result["seeds"]) == ("finished", True, drivers.SEEDS)
    assert shlex.split(result["command"]) == row.command


def test_a_row_says_how_many_seeds_missed_the_target() -> None:
    ratio = {"value": 7.0, "low": None, "high": None}
    costs = {"score": 0.8, "low": None, "high": None, "steps_to_target": 120.0, "n": 3}
    missed = {**costs, "arm": "opd-32", "reached": 2, "steps_to_target": None}
    result = {
        "table": [
            {"score": 0.0625},
            *({**costs, "arm": arm, "reached": 3} for arm in ("rl", "opd")),
            missed,
        ],
        "comparisons": [
            {"under": "opd", "reached": True, "ratios": dict.fromkeys(claims.AXES, ratio)},
            {"under": "opd-32", "reached": False, "ratios": {}},
        ],
    }
    assert drivers.cells(drivers.StudyRow("a thing"), result) == [
        *("a thing", "0.06", "0.8", "120", "120", "7.0×", "7.0×"),
        *("reached by 2 of 3", "reached by 2 of 3"),
    ]


def test_a_section_has_every_arm_and_every_ratio() -> None:
    nothing = {"value": None, "low": None, "high": None}
    ratio = {"value": 7.0, "low": 6.0, "high": 8.0}
    pair = {"over": "rl", "under": "opd"}
    row = {"label": "an earlier name", "n": 5, "reached": 4, "score": 0.8, "low": 0.7, "high": 0.9}
    row |= {"steps_to_target": 12.0, "tokens_to_target": 31_000.0, "flops_to_target": 2.5e11}
    result = {
        "command": "opd experiment small",
        "seeds": 5,
        "created_at": 0.0,
        "finished_at": 600.0,
        "target": {"text": "a score of 0.8"},
        "columns": [{"metric": "a/b", "label": "far"}],
        "table": [{**row, "arm": "opd", "seconds_to_target": None, "cells": {"a/b": ratio}}],
        "comparisons": [
            {**pair, "reached": True, "ratios": dict.fromkeys(claims.AXES, ratio)},
            {**pair, "reached": False, "ratios": dict.fromkeys(claims.AXES, nothing)},
        ],
        "arms": [
            {
                "name": "opd",
                "chosen": {"steps": 3},
                "choices": [{"choice": {"steps": 3}}, {"choice": {"steps": 4}}],
            }
        ],
    }
    pairs = [pair, {**pair, "note": "bare"}]
    text = claims.section(definition(pairs=pairs), result)
    assert "| OPD | 0.8 (0.7–0.9) | 4 of 5 | 12 | 31 k | 250 G | – | 7 (6–8) |" in text
    assert "| RL ÷ OPD | 7.0× (6.0–8.0) |" in text
    assert "| RL ÷ OPD | not reached | not reached | not reached | not reached | bare |" in text
    assert "5 seeds, 10 minutes" in text
    assert "Selected by tuning: OPD: `steps` 3 of 3, 4." in text
