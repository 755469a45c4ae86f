"""What the model process has in memory, told in a file of the data directory.

The file outlives the process: it counts only while the process holds its lock.
"""

import json
from typing import Any

from opd.files import written_aside
from storage.data_dir import DataDir
from storage.locks import held

ASLEEP = {"state": "asleep", "models": None}


def write_model_state(data_dir: DataDir, state: str, models: dict[str, Any] | None) -> None:
    """`state`: "loading", "ready", or "awake" with nothing loaded; `models` says which ones."""
    with written_aside(data_dir.model_state) as path:
        path.write_text(json.dumps({"state": state, "models": models}), encoding="utf-8")


def read_model_state(data_dir: DataDir) -> dict[str, Any]:
    """{"state": "asleep" (no process), "awake", "loading" or "ready", "models": … or None}."""
    if not held(data_dir.model_lock):
        return dict(ASLEEP)
    try:
        stored = json.loads(data_dir.model_state.read_text(encoding="utf-8"))
        return {"state": str(stored["state"]), "models": stored["models"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "awake", "models": None}
