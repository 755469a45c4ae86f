"""A configuration that is tried out without becoming a run: its other runs are looked up."""

import secrets
import shutil
from pathlib import Path

from sqlalchemy import Engine

from opd.config import RunConfig
from opd.folders import RUN_REFERENCE
from opd.worker.references import resolved


def names_runs(config: RunConfig) -> bool:
    models = [config.student.model]
    models += [t.model for t in config.teachers.values() if t.kind == "model"]
    return any(RUN_REFERENCE.fullmatch(m) and not Path(m).exists() for m in models)


def placed(engine: Engine, data_dir: Path, config: RunConfig) -> RunConfig:
    """The configuration with folders in place of other runs, of which nothing is remembered.

    Raises UserError for a run that is not there or has no checkpoint.
    """
    if not names_runs(config):
        return config
    name = f"trial-{secrets.token_hex(6)}"
    try:
        return resolved(engine, data_dir, config, name)
    finally:
        shutil.rmtree(data_dir / "runs" / name, ignore_errors=True)
