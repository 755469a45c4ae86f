"""Which launcher `opd serve --launcher` names."""

from importlib import import_module
from typing import cast

from app.worker.launchers.launcher import Launcher
from opd.errors import UserError

WHERE = "--launcher"


def launcher_named(text: str | None) -> Launcher | None:
    """`slurm`, `ray=http://HOST:8265`; None for "", which is this machine. Only the module that is
    named is loaded. Raises UserError."""
    name, _, address = (text or "").partition("=")
    match name:
        case "":
            return None
        case "slurm" if not address:
            return cast(Launcher, import_module("app.worker.launchers.slurm").Slurm())
        case "ray" if address.startswith(("http://", "https://")):
            return cast(Launcher, import_module("app.worker.launchers.ray").Ray(address))
    raise UserError(f"must be slurm, or ray=http://HOST:8265 (got {text})", where=WHERE)
