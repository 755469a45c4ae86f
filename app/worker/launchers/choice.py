"""Which launcher `opd serve --launcher` names."""

from importlib import import_module
from typing import cast

from app.worker.launchers.launcher import Launcher
from opd.errors import UserError

WHERE = "--launcher"


def launcher_named(text: str | None) -> Launcher | None:
    """`slurm`; None for "", which is this machine. Only the module that is named is loaded.

    Raises UserError."""
    name, _, address = (text or "").partition("=")
    match name:
        case "":
            return None
        case "slurm" if not address:
            return cast(Launcher, import_module("app.worker.launchers.slurm").Slurm())
    raise UserError(f"must be slurm (got {text})", where=WHERE)
