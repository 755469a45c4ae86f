"""The models that a question is about: of a run's checkpoint, of its start, or of a recipe."""

import json
import os
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from app.worker.devices.holds import give_back
from app.worker.models.request import ModelRequest, ProgressReporter
from app.worker.references import resolved
from app.worker.run_files.choice import run_files
from app.worker.run_inputs import moment_of
from opd.config.recipes import recipe
from opd.config.run import RunConfig, parse
from opd.data.template_dates import render_as_of
from opd.errors import UserError
from opd.interactive.read_prefixes import ReadPrefixes
from opd.models.folders.progress import Say
from opd.models.token_text import TokenText
from opd.models.tokenizers import fingerprint
from opd.training.checkpoint_manifest import OPTIMIZER
from opd.training.loading import Callbacks, LoadedModels, load_models
from storage.read.runs import read_run


@dataclass(frozen=True)
class HeldModels:
    """What stays in memory between requests: models, and what they have read of chats."""

    models: LoadedModels
    prefixes: ReadPrefixes

    def forget_chats(self) -> bool:
        return self.prefixes.forget()

    def close(self) -> None:
        self.prefixes.forget()
        self.models.close()


@dataclass(frozen=True)
class RequestedModels:
    """Loaded models with the run, if any, and the step of the student's checkpoint (0: start)."""

    models: LoadedModels
    prefixes: ReadPrefixes
    config: RunConfig
    run_id: str | None
    step: int
    about: dict[str, Any]

    @property
    def tokenizer(self) -> str:
        return fingerprint(self.models.pair.tokenizer)

    @cached_property
    def vocabulary(self) -> TokenText:
        return TokenText(self.models.pair.tokenizer)


def requested_models(request: ModelRequest, reporter: ProgressReporter) -> RequestedModels:
    """Loads what the question names, unless it is in memory already.

    The payload's "run" or else "recipe" says which models; "checkpoint" at which step, None: as
    they start; "device" is "cpu" where the processor is to answer. Raises UserError for a
    checkpoint that is not whole, for what cannot be loaded, and for a GPU that a run has.
    """
    run_id = request.payload.get("run")
    step = request.payload.get("checkpoint")
    config, folder = (
        _of_run(request, run_id, step, reporter.say)
        if run_id
        else (_of_recipe(request, reporter.say), None)
    )
    if request.payload.get("device") == "cpu":
        config = config.model_copy(update={"device": "cpu"})
    about = {
        "run": run_id,
        "recipe": None if run_id else request.payload.get("recipe"),
        "step": step or 0,
        "student": config.student.model,
        "teacher": config.teacher.model if config.teacher.kind == "model" else config.teacher.kind,
    }
    key = json.dumps([_models_part(config), str(folder), _age(folder)], sort_keys=True)
    at = "as it starts" if not step else f"checkpoint {step}"

    def load() -> HeldModels:
        reporter.say(f"loading student ({at}) and teacher")
        give_back()
        device = request.hold(config)
        torch.set_num_threads(config.threads or os.cpu_count() or 1)
        models = load_models(device.config, folder, Callbacks(reporter.say, reporter.stop))
        return HeldModels(models, ReadPrefixes())

    held = request.cache.get(key, about, load)
    models = held.models.with_config(config)
    render_as_of(models.pair.tokenizer, _moment(request, run_id))
    return RequestedModels(models, held.prefixes, config, run_id, step or 0, about)


def _of_recipe(request: ModelRequest, say: Say) -> RunConfig:
    config = parse(recipe(request.payload["recipe"]).config)
    return resolved(request.engine, request.data_dir, config, say=say)


def _of_run(
    request: ModelRequest, run_id: str, step: int | None, say: Say
) -> tuple[RunConfig, Path | None]:
    info = read_run(request.engine, run_id)
    settled_run = run_id if info["attempt"] else None  # then the references have been settled
    config = resolved(request.engine, request.data_dir, parse(info["config"]), settled_run, say)
    if step is None:
        return config, None
    saved = {c["step"]: c for c in info["checkpoints"]}
    if step not in saved:
        raise UserError(f"{run_id} no longer has a checkpoint of step {step}", where="checkpoint")
    return config, run_files(request.data_dir).bring(run_id, saved[step], (OPTIMIZER,))


def _moment(request: ModelRequest, run_id: str | None) -> datetime:
    """That of the run's prompts; now, without a run."""
    if run_id is None:
        return datetime.now()
    return moment_of(read_run(request.engine, run_id))


def _models_part(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what is loaded."""
    whole = config.model_dump(mode="json")
    return {name: whole[name] for name in ("student", "teacher", "sampling", "seed", "device")}


def _age(folder: Path | None) -> float:
    """When a checkpoint was written: a resumed run may write the same step anew."""
    return folder.stat().st_mtime if folder else 0.0
