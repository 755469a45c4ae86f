"""The doors of the package: runs as tables and arrays, and a run trained from Python."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

import opd
from opd.errors import UserError
from opd.interchange.jsonl import rollouts_of
from storage.read.rollouts import read_rollouts
from tests.support.api_client import TOKENS, rollout, stored_run
from tests.support.tiny_models import save_pair


@pytest.fixture
def run_id(engine: Engine) -> str:
    return stored_run(engine)


def test_importing_the_package_costs_nothing() -> None:
    code = (
        "import sys; before = set(sys.modules); import opd; "
        "sys.exit(', '.join(set(sys.modules) - before - {'opd', '__future__', 'typing'}) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    loaded = {name.partition(".")[0] for name in done.stderr.strip().split(", ") if name}
    assert loaded <= set(sys.stdlib_module_names), done.stderr


def test_a_run_is_tables_and_arrays(tmp_path: Path, run_id: str) -> None:
    run = opd.load(run_id, data_dir=tmp_path)
    assert (run.info["name"], run.info["status"]) == ("with tokens", "finished")
    assert run.metrics["reverse_kl"].to_dict() == {1: 0.5, 2: 0.25}
    assert run.evaluations[["step", "suite", "value"]].values.tolist() == [[2, "held-out", 0.5]]
    rollouts = run.rollouts()
    assert len(rollouts) == 6 and rollouts["kl_sum"].is_monotonic_decreasing
    assert set(run.rollouts(step=2)["step"]) == {2} and run.rollouts(step=9).empty

    name = rollouts.index[0]
    made = rollout(int(rollouts["step"].iloc[0]), int(rollouts["sample"].iloc[0])).record
    assert made is not None
    tokens, arrays = run.tokens(name), run.arrays(name)
    assert tokens["text"].tolist() == [" but", "\\xc3", "\\xa9", " but", " but", "<end>"]
    for column in ("completion_ids", "student_logprobs", "teacher_logprobs", "reverse_kl"):
        expected = getattr(made, column)
        assert expected is not None and arrays[column].shape == (TOKENS,)
        np.testing.assert_allclose(arrays[column], expected, rtol=1e-3)
        np.testing.assert_array_equal(tokens[column].to_numpy(), arrays[column])
    assert arrays["prompt_ids"].tolist() == [1, 1]
    [read] = rollouts_of([(1, run.record(name))], "record")
    assert read.record is not None and read.record.student_topk is not None


def test_what_is_not_there_is_said(tmp_path: Path, engine: Engine, run_id: str) -> None:
    with pytest.raises(UserError, match="run-none"):
        opd.load("run-none", data_dir=tmp_path)
    with pytest.raises(UserError, match="holds no runs"):
        opd.load(run_id, data_dir=tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()
    other = stored_run(engine)
    foreign = read_rollouts(engine, other)["items"][0]["id"]
    run = opd.load(run_id, data_dir=tmp_path)
    for read in (run.tokens, run.arrays, run.record):
        with pytest.raises(UserError, match=f"is a rollout of {other}, not of {run_id}"):
            read(foreign)
    with pytest.raises(UserError, match="no such"):
        run.tokens("roll-none")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"steps": -1}, "steps"),
        ("no-such-recipe", "no recipe or file of this name"),
        (["demo"], "must be a dict, a recipe or a YAML file"),
    ],
)
def test_a_configuration_is_checked_before_anything_is_made(
    tmp_path: Path, config: object, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        opd.run(config, data_dir=tmp_path / "new")  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_a_run_is_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = save_pair(tmp_path)
    config = {
        "student": str(root / "student"),
        "teacher": str(root / "teacher"),
        "prompts": str(root / "prompts.jsonl"),
        "device": "cpu",
        "threads": 1,
        "sampling": {"prompts_per_step": 2, "group_size": 2, "max_new_tokens": 4},
        "evaluation": {"prompts": 2, "keep": 1},
    }
    run = opd.run(config, changes=["steps=1"], name="here", data_dir=tmp_path / "data")
    assert (run.info["status"], run.info["name"], run.metrics.index.tolist()) == (
        "finished",
        "here",
        [1],
    )
    assert f"{run.id} starts; log: {tmp_path}" in capsys.readouterr().err
    (root / "student" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="safetensors"):
        opd.run(config, changes=["steps=1"], data_dir=tmp_path / "data")
