"""Local paths of a run's configuration, made independent of the directory a command is given in."""

import os
from pathlib import Path

from opd.config.folders import (
    BUNDLED_DATA,
    BUNDLED_MODELS,
    LOCAL_STARTS,
    named_as_file,
)
from opd.config.models import RouteConfig
from opd.config.run import RunConfig
from opd.files import expanded


def with_absolute_paths(config: RunConfig, base: Path | None = None) -> RunConfig:
    """The configuration with models and data of this disk by their absolute paths.

    Relative paths start from `base`, by default the working directory, and `~` from the home
    directory. Links are kept as they are named. Bundled models and data, hub ids, other runs and
    the models of remote teachers are left alone.
    """
    start = Path.cwd() if base is None else base

    def placed(teacher: RouteConfig) -> RouteConfig:
        if teacher.kind != "model":
            return teacher
        return teacher.model_copy(update={"model": model_path(teacher.model, start)})

    student, prompts, evaluation = config.student, config.prompts, config.evaluation
    routes = {name: placed(route) for name, route in config.teacher.routes.items()}
    suites = {
        name: suite.model_copy(update={"source": data_path(suite.source, start)})
        for name, suite in evaluation.suites.items()
    }
    sources = {"source": data_path(prompts.source, start)}
    if prompts.eval_source is not None:
        sources["eval_source"] = data_path(prompts.eval_source, start)
    return config.model_copy(
        update={
            "student": student.model_copy(update={"model": model_path(student.model, start)}),
            "teacher": placed(config.teacher).model_copy(update={"routes": routes}),
            "prompts": prompts.model_copy(update=sources),
            "evaluation": evaluation.model_copy(update={"suites": suites}),
        }
    )


def model_path(reference: str, base: Path) -> str:
    """The absolute path of a local model; any other reference as it is."""
    if reference in BUNDLED_MODELS:
        return reference
    path = base / expanded(reference)
    local = reference.startswith(LOCAL_STARTS) or path.exists()
    return _plain(path) if local else reference


def data_path(reference: str, base: Path) -> str:
    """The absolute path of a local data file or folder; any other reference as it is."""
    if reference in BUNDLED_DATA:
        return reference
    path = base / expanded(reference)
    return _plain(path) if named_as_file(reference) or path.exists() else reference


def _plain(path: Path) -> str:
    """Without `..`, unless a link in front of one makes that another file."""
    plain = os.path.normpath(path)
    try:
        same = os.path.samefile(plain, path)
    except OSError:
        same = not path.exists()
    return plain if same else str(path)
