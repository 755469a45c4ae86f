"""Models that are other runs or are converted first: `run-…` and `run-…@STEP` become that run's
checkpoint folder, `bundled/smollm2` the folder that it was converted into."""

import json
import re
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine

from app.worker.models.converted import smollm2_folder
from app.worker.run_files.choice import run_files
from app.worker.run_files.uploaded import with_uploads
from opd.config.folders import RUN_REFERENCE
from opd.config.gguf.smollm import SMOLLM2
from opd.config.models import RouteConfig, StudentConfig, TeacherConfig
from opd.config.run import RunConfig
from opd.errors import ErrorKind, UserError
from opd.files import written_aside
from opd.models.folders.progress import Say
from opd.training.checkpoint_manifest import OPTIMIZER
from storage.data_dir import DataDir
from storage.read.runs import read_run

T = TypeVar("T", StudentConfig, TeacherConfig, RouteConfig)


def resolved(
    engine: Engine,
    data_dir: DataDir,
    config: RunConfig,
    run_id: str | None = None,
    say: Say = lambda _: None,
) -> RunConfig:
    """The configuration with folders in place of references.

    With run `run_id`, which step "the newest" was is remembered, so that a resumed run goes on with
    the same models though the other run may have trained on. Raises UserError for a run that is
    not there, has no such checkpoint, or one that was damaged.
    """
    memory = None if run_id is None else data_dir.run(run_id).references
    config = with_uploads(data_dir, config)
    finder = _Finder(engine, data_dir, memory, say)
    student = finder.placed(config.student, "student.model")
    teacher = config.teacher
    if teacher.kind == "model":
        teacher = finder.placed(teacher, "teacher.model")
    routes = {
        name: finder.placed(route, f"teacher.routes.{name}.model")
        if route.kind == "model"
        else route
        for name, route in teacher.routes.items()
    }
    teacher = teacher.model_copy(update={"routes": routes})
    finder.remember()
    return config.model_copy(update={"student": student, "teacher": teacher})


def names_runs(config: RunConfig) -> bool:
    """Whether a model of the configuration is another run."""
    return any(_named(model) is not None for model in _models(config))


def needs_conversion(config: RunConfig) -> bool:
    """Whether a model of the configuration is converted before it is loaded."""
    return SMOLLM2 in _models(config)


def _models(config: RunConfig) -> list[str]:
    models = [config.student.model]
    return models + [t.model for t in config.teachers.values() if t.kind == "model"]


def _named(reference: str) -> re.Match[str] | None:
    return None if Path(reference).exists() else RUN_REFERENCE.fullmatch(reference)


class _Finder:
    def __init__(self, engine: Engine, data_dir: DataDir, memory: Path | None, say: Say) -> None:
        self._say = say
        self._engine, self._data_dir, self._memory = engine, data_dir, memory
        self._stored_steps: dict[str, int] = {}
        if memory is not None and run_files(data_dir).fetch(data_dir.name_of(memory)):
            self._stored_steps = json.loads(memory.read_text(encoding="utf-8"))
        self._steps = dict(self._stored_steps)

    def placed(self, section: T, where: str) -> T:
        """The section with its model's folder; as it is where it names neither a run nor one that
        is converted first."""
        reference = section.model
        if reference == SMOLLM2:
            converted = smollm2_folder(self._data_dir, where=where, say=self._say)
            return section.model_copy(update={"model": str(converted)})
        named = _named(reference)
        if named is None:
            return section
        run_id, stated_step = named.groups()
        step = int(stated_step) if stated_step is not None else self._steps.get(reference)
        folder, self._steps[reference] = self._folder(run_id, step, where)
        return section.model_copy(update={"model": str(folder)})

    def remember(self) -> None:
        if self._memory is None or self._steps == self._stored_steps:
            return
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(self._memory) as path:
            path.write_text(json.dumps(self._steps), encoding="utf-8")
        run_files(self._data_dir).send(self._data_dir.name_of(self._memory))

    def _folder(self, run_id: str, step: int | None, where: str) -> tuple[Path, int]:
        saved = {c["step"]: c for c in self._checkpoints(run_id, where)}
        if not saved:
            raise _missing(f"{run_id} has no checkpoint yet", where)
        if step is None:
            step = max(saved)
        if step not in saved:
            there = ", ".join(f"{run_id}@{s}" for s in saved)
            raise _missing(f"{run_id} has no checkpoint of step {step}; it has {there}", where)
        try:
            return run_files(self._data_dir).bring(run_id, saved[step], (OPTIMIZER,)), step
        except UserError as error:
            raise UserError(error.message, where=where, kind=error.kind) from None

    def _checkpoints(self, run_id: str, where: str) -> list[dict[str, Any]]:
        try:
            checkpoints: list[dict[str, Any]] = read_run(self._engine, run_id)["checkpoints"]
        except UserError:
            raise _missing(f"there is no run {run_id}; opd runs lists them", where) from None
        return checkpoints


def _missing(message: str, where: str) -> UserError:
    return UserError(message, where=where, kind=ErrorKind.MISSING_MODEL)
