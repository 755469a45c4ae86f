"""Real runs with a planted fault, each small: trained by the real trainer, stored by the store."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import Engine

from opd.config.run import RunConfig, parse
from opd.training.trainer import Training
from opd.types import CheckpointEvent, EvaluationEvent, ModelsEvent, StepEvent
from storage.queue import jobs
from storage.write.records import RunWriter
from tests.support.devices.tested import DEVICE
from tests.support.stored_runs import OWNER

torch.set_num_threads(1)
EOS, UNK = 1, 2
Table = torch.Tensor

# Settings of the recipe demo, with fewer completions.
SMALL: dict[str, Any] = {
    "steps": 8,
    "threads": 1,
    "device": str(DEVICE),
    "sampling": {"prompts_per_step": 8, "group_size": 2, "max_new_tokens": 64},
    "optimizer": {"learning_rate": 1e-3},
    "evaluation": {"prompts": 8, "every": 4, "keep": 4},
}


def train(engine: Engine, folder: Path, **changes: Any) -> str:
    """Trains and stores a run of the bundled pair with those changes; returns its id."""
    config = parse(merged(SMALL, changes))
    run_id = jobs.create_run(engine, config)
    attempt = jobs.claim(engine, run_id, run_id, OWNER)
    assert attempt is not None
    store(config, folder, RunWriter(engine, run_id, attempt))
    jobs.finish(engine, run_id, attempt, "finished")
    return run_id


def store(config: RunConfig, folder: Path, writer: RunWriter) -> None:
    training = Training(config, folder)
    for event in training.events():
        if isinstance(event, ModelsEvent):
            writer.models(event, {"torch": torch.__version__})
        elif isinstance(event, StepEvent):
            writer.step(event, training.vocabulary)
        elif isinstance(event, EvaluationEvent):
            writer.evaluation(event, training.vocabulary)


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`changes` over `base`, section by section."""
    result = dict(base)
    for name, value in changes.items():
        old = result.get(name)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[name] = merged(old, value) if both else value
    return result


def altered(folder: Path, name: str, change: Callable[[Table], None]) -> str:
    """A copy of a bundled model with another embedding table (V, D), which is its output too."""
    shutil.copytree(str(resources.files("opd") / "bundled" / name), folder)
    weights = load_file(folder / "model.safetensors")
    change(weights["model.embed_tokens.weight"])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def swapped(*pairs: tuple[int, int]) -> Callable[[Table], None]:
    """Each of a pair of ids takes the other's place."""

    def change(table: Table) -> None:
        for a, b in pairs:
            table[[a, b]] = table[[b, a]].clone()

    return change


def ids_of(texts: Sequence[str]) -> list[int]:
    """Ids of tokens of the bundled tokenizer, by their texts."""
    file = resources.files("opd") / "bundled" / "student" / "tokenizer.json"
    vocabulary = json.loads(file.read_text(encoding="utf-8"))["model"]["vocab"]
    return [vocabulary[text] for text in texts]


def repeating_student(folder: Path) -> str:
    """A folder with the bundled student, taught in some seconds to go round in circles."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(64):
        a, b = i % 9 + 1, (i * 7) % 9 + 1
        line = f" {a} + {b} = {(a + b) % 10}."
        rows.append({"prompt": f"Ann has {a} apples. Ann buys {b} more.", "completion": line * 9})
    (folder / "loops.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = parse(
        merged(
            SMALL,
            {
                "steps": 30,
                "teacher": {"kind": "none"},
                "objective": {"name": "sft"},
                "prompts": {"source": str(folder / "loops.jsonl"), "grader": "none"},
                "sampling": {"prompts_per_step": 16, "group_size": 1, "source": "given"},
                "evaluation": {"prompts": 1, "keep": 0, "every": 0},
            },
        )
    )
    (saved,) = [
        e for e in Training(config, folder / "run").events() if isinstance(e, CheckpointEvent)
    ]
    return saved.path
